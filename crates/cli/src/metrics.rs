//! `stoa metrics`.

use api::{AppMetrics, InstanceUsage, RequestCounts};

use crate::args::OfApp;
use crate::failure::Failure;
use crate::output::{self, say};
use crate::project;
use crate::session::Session;

/// What the edge counted of an app, and what its instances use now.
pub(crate) fn metrics(session: &Session, of: &OfApp) -> Result<u8, Failure> {
    let app = project::app(of)?;
    let metrics = session.client.app_metrics(&session.place, &app)?;
    if session.json {
        output::json(&metrics)?;
    } else if metrics.requests.is_empty() && metrics.instances.is_empty() {
        say(&format!(
            "{app} had no requests and runs nothing; see it with: stoa ps -a {app}"
        ));
    } else {
        output::data(&text(&metrics))?;
    }
    Ok(0)
}

fn text(metrics: &AppMetrics) -> String {
    let mut parts = Vec::new();
    if !metrics.requests.is_empty() {
        let rows: Vec<_> = metrics.requests.iter().map(requests).collect();
        parts.push(output::table(
            &[
                "SERVICE", "RELEASE", "1XX", "2XX", "3XX", "4XX", "5XX", "BY EDGE", "CUT", "RETRIES",
            ],
            &rows,
        ));
    }
    if !metrics.instances.is_empty() {
        let rows: Vec<_> = metrics.instances.iter().map(usage).collect();
        parts.push(output::table(
            &["INSTANCE", "MEMORY", "CPU TIME", "PROCESSES"],
            &rows,
        ));
    }
    parts.join("\n")
}

fn requests(of: &RequestCounts) -> Vec<String> {
    let counts = [
        of.informational,
        of.succeeded,
        of.redirected,
        of.client_errors,
        of.server_errors,
        of.answered_by_edge,
        of.cut,
        of.retries,
    ];
    let names = [of.service.clone(), of.release.clone()];
    names
        .into_iter()
        .chain(counts.map(|count| count.to_string()))
        .collect()
}

fn usage(of: &InstanceUsage) -> Vec<String> {
    vec![
        of.instance.clone(),
        output::size(of.memory_bytes),
        format!("{}.{} s", of.cpu_us / 1_000_000, of.cpu_us % 1_000_000 / 100_000),
        of.processes.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_usage_are_two_tables() {
        let metrics = AppMetrics {
            requests: vec![RequestCounts {
                service: "web".to_owned(),
                release: "v3".to_owned(),
                informational: 0,
                succeeded: 1200,
                redirected: 3,
                client_errors: 4,
                server_errors: 5,
                answered_by_edge: 2,
                cut: 1,
                retries: 6,
            }],
            instances: vec![InstanceUsage {
                instance: "ins_1".to_owned(),
                memory_bytes: 3 << 20,
                cpu_us: 1_500_000,
                processes: 2,
            }],
        };
        let expected = "\
SERVICE  RELEASE  1XX  2XX   3XX  4XX  5XX  BY EDGE  CUT  RETRIES
web      v3       0    1200  3    4    5    2        1    6

INSTANCE  MEMORY  CPU TIME  PROCESSES
ins_1     3 MiB   1.5 s     2
";
        assert_eq!(text(&metrics), expected);
    }
}

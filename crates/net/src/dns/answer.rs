//! One question in, one answer out.
//!
//! Lives here: what is answered, refused, dropped or asked elsewhere, from the bytes and the index alone.
//! Does not live here: sockets (`server`), asking elsewhere (`upstream`).
//! Invariants: anything but one plain question is refused, whatever its counts claim, before memory is spent on it; an
//! answer is never larger than the asker said it can take; no transfer, no list of all records.

use std::net::Ipv4Addr;

use simple_dns::rdata::{A, OPT, RData, SOA};
use simple_dns::{
    CLASS, Name, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, ResourceRecord, TYPE,
};

use super::zones::{DOMAIN, Index, Known};
use crate::state::Egress;

/// Short, because instances come and go; not zero, because some resolvers treat that as an error.
const TTL_S: u32 = 1;
/// Fits any path we make; the usual bound against fragments.
const UDP_MOST: usize = 1232;
const UDP_LEAST: usize = 512;
const TCP_MOST: usize = 65535;
const HEADER: usize = 12;
const IS_ANSWER: u8 = 0x80;

/// How the question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// What to do with a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Send this.
    Answer(Vec<u8>),
    /// Ask the host's resolvers; if they fail, send this.
    Forward {
        /// "The server failed", for this question.
        failure: Vec<u8>,
    },
    /// Say nothing.
    Silence,
}

/// Decide. `turn` differs from question to question and chooses which address comes first.
pub(super) fn decide(query: &[u8], index: &Index, transport: Transport, turn: usize) -> Verdict {
    let [id_high, id_low, flags, ..] = *query else {
        return Verdict::Silence;
    };
    // An answer sent to a server is a loop or an attack.
    if query.len() < HEADER || flags & IS_ANSWER != 0 {
        return Verdict::Silence;
    }
    let id = u16::from_be_bytes([id_high, id_low]);
    let count = |at: usize| u16::from_be_bytes([query[at], query[at + 1]]);
    let is_plain = count(4) == 1 && count(6) == 0 && count(8) == 0 && count(10) <= 2;
    let parsed = if is_plain { Packet::parse(query).ok() } else { None };
    let Some(packet) = parsed else {
        return bare(id, RCODE::FormatError);
    };
    let Some(question) = packet.questions.first() else {
        return bare(id, RCODE::FormatError);
    };
    let reply = Reply {
        packet: &packet,
        question,
        egress: index.egress,
        transport,
    };
    if packet.opcode() != OPCODE::StandardQuery {
        return reply.code(RCODE::NotImplemented);
    }
    if packet.opt().is_some_and(|opt| opt.version != 0) {
        return reply.code(RCODE::BADVERS);
    }
    if !matches!(question.qclass, QCLASS::CLASS(CLASS::IN)) {
        return reply.code(RCODE::Refused);
    }
    let is_address = match question.qtype {
        QTYPE::AXFR | QTYPE::IXFR | QTYPE::MAILA | QTYPE::MAILB => return reply.code(RCODE::Refused),
        // "Everything" of a name of ours is its addresses; of others it is a way to draw large answers.
        QTYPE::ANY | QTYPE::TYPE(TYPE::A) => true,
        QTYPE::TYPE(_) => false,
    };
    let Some(name) = readable(&question.qname) else {
        return reply.absent();
    };
    match index.look_up(&name) {
        Known::Here(ips) if is_address && !ips.is_empty() => reply.addresses(ips, turn),
        Known::Here(_) => reply.nothing(),
        Known::Absent => reply.absent(),
        Known::Foreign if question.qtype == QTYPE::ANY => reply.code(RCODE::NotImplemented),
        Known::Foreign => match index.egress {
            Egress::Allowed => Verdict::Forward {
                failure: reply.bytes(RCODE::ServerFailure, &[], None),
            },
            Egress::Denied => reply.code(RCODE::Refused),
        },
    }
}

/// In lower case, without the closing dot; nothing for a name with bytes no host name has.
fn readable(name: &Name<'_>) -> Option<String> {
    let mut text = String::new();
    for label in name.as_bytes() {
        if !label
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(b))
        {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(label.iter().map(|b| char::from(b.to_ascii_lowercase())));
    }
    Some(text)
}

/// Only the header: for what could not be read.
fn bare(id: u16, code: RCODE) -> Verdict {
    let mut packet = Packet::new_reply(id);
    *packet.rcode_mut() = code;
    packet.build_bytes_vec().map_or(Verdict::Silence, Verdict::Answer)
}

struct Reply<'a> {
    packet: &'a Packet<'a>,
    question: &'a Question<'a>,
    egress: Egress,
    transport: Transport,
}

impl Reply<'_> {
    fn code(&self, code: RCODE) -> Verdict {
        Verdict::Answer(self.bytes(code, &[], None))
    }

    fn nothing(&self) -> Verdict {
        Verdict::Answer(self.bytes(RCODE::NoError, &[], authority()))
    }

    fn absent(&self) -> Verdict {
        Verdict::Answer(self.bytes(RCODE::NameError, &[], authority()))
    }

    /// As many as fit, beginning elsewhere each time: a subset is enough to connect, a truncated answer is not.
    fn addresses(&self, ips: &[Ipv4Addr], turn: usize) -> Verdict {
        let start = turn % ips.len();
        let mut order: Vec<Ipv4Addr> = ips.iter().cycle().skip(start).take(ips.len()).copied().collect();
        loop {
            let bytes = self.bytes(RCODE::NoError, &order, None);
            if bytes.len() <= self.most() || order.is_empty() {
                return Verdict::Answer(bytes);
            }
            order.truncate(order.len() * 3 / 4);
        }
    }

    fn most(&self) -> usize {
        match (self.transport, self.packet.opt()) {
            (Transport::Tcp, _) => TCP_MOST,
            (Transport::Udp, Some(opt)) => usize::from(opt.udp_packet_size).clamp(UDP_LEAST, UDP_MOST),
            (Transport::Udp, None) => UDP_LEAST,
        }
    }

    fn bytes(&self, code: RCODE, ips: &[Ipv4Addr], authority: Option<ResourceRecord<'_>>) -> Vec<u8> {
        let mut reply = Packet::new_reply(self.packet.id());
        *reply.opcode_mut() = self.packet.opcode();
        *reply.rcode_mut() = code;
        if matches!(code, RCODE::NoError | RCODE::NameError) {
            reply.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
        }
        if self.packet.has_flags(PacketFlag::RECURSION_DESIRED) {
            reply.set_flags(PacketFlag::RECURSION_DESIRED);
        }
        if self.egress == Egress::Allowed {
            reply.set_flags(PacketFlag::RECURSION_AVAILABLE);
        }
        reply.questions.push(self.question.clone());
        let name = &self.question.qname;
        let record =
            |ip: &Ipv4Addr| ResourceRecord::new(name.clone(), CLASS::IN, TTL_S, RData::A(A::from(*ip)));
        reply.answers.extend(ips.iter().map(record));
        reply.name_servers.extend(authority);
        if self.packet.opt().is_some() {
            let udp_packet_size = u16::try_from(UDP_MOST).unwrap_or(u16::MAX);
            *reply.opt_mut() = Some(OPT {
                opt_codes: Vec::new(),
                udp_packet_size,
                version: 0,
            });
        }
        // Only a name that could not be written fails here, and this one was just read.
        reply.build_bytes_vec_compressed().unwrap_or_default()
    }
}

/// Lets resolvers remember an absence for a second and no longer.
fn authority() -> Option<ResourceRecord<'static>> {
    let soa = SOA {
        mname: Name::new("dns.internal").ok()?,
        rname: Name::new("hostmaster.internal").ok()?,
        serial: 1,
        refresh: 60,
        retry: 60,
        expire: 60,
        minimum: TTL_S,
    };
    Some(ResourceRecord::new(
        Name::new(DOMAIN).ok()?,
        CLASS::IN,
        TTL_S,
        RData::SOA(soa),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::{Service, Zone};

    fn index(instances: u8) -> Index {
        let ips = (0..instances).map(|n| Ipv4Addr::new(10, 80, 1, n)).collect();
        Index::of(&Zone {
            gateway: "10.80.1.1".parse().unwrap(),
            subnet: "10.80.1.0/24".parse().unwrap(),
            egress: Egress::Allowed,
            services: vec![Service {
                app: "shop".into(),
                service: "web".into(),
                ips,
            }],
            aliases: std::collections::BTreeMap::new(),
            doors: Vec::new(),
        })
    }

    fn question(name: &str, kind: QTYPE) -> Vec<u8> {
        let mut packet = Packet::new_query(77);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new_unchecked(name);
        packet
            .questions
            .push(Question::new(name, kind, CLASS::IN.into(), false));
        packet.build_bytes_vec().unwrap()
    }

    fn code(verdict: &Verdict) -> u8 {
        match verdict {
            Verdict::Answer(bytes) => bytes[3] & 0xf,
            other => panic!("{other:?}"),
        }
    }

    fn ips(verdict: &Verdict) -> Vec<Ipv4Addr> {
        let Verdict::Answer(bytes) = verdict else {
            panic!("{verdict:?}")
        };
        let packet = Packet::parse(bytes).unwrap();
        assert_eq!(packet.id(), 77);
        packet
            .answers
            .iter()
            .map(|record| match &record.rdata {
                RData::A(a) => Ipv4Addr::from(a.address),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn answers_by_name_and_type() {
        let index = index(2);
        let ask = |name: &str, kind| decide(&question(name, kind), &index, Transport::Udp, 0);
        let a = QTYPE::TYPE(TYPE::A);
        assert_eq!(ips(&ask("WEB.shop.Internal", a)).len(), 2);
        assert_eq!(ips(&ask("web.shop.internal", QTYPE::ANY)).len(), 2);
        for (name, kind, expected) in [
            ("web.shop.internal", QTYPE::TYPE(TYPE::AAAA), 0),
            ("web.shop.internal", QTYPE::TYPE(TYPE::HTTPS), 0),
            ("shop.internal", a, 0),
            ("none.shop.internal", a, 3),
            ("none.shop.internal", QTYPE::TYPE(TYPE::AAAA), 3),
            ("localname", a, 3),
            ("internal", QTYPE::AXFR, 5),
            ("example.com", QTYPE::IXFR, 5),
            ("example.com", QTYPE::ANY, 4),
        ] {
            let verdict = ask(name, kind);
            assert_eq!(
                (code(&verdict), ips(&verdict).len()),
                (expected, 0),
                "{name} {kind:?}"
            );
        }
        assert!(matches!(ask("example.com", a), Verdict::Forward { .. }));
    }

    #[test]
    fn the_first_address_changes_with_each_question() {
        let index = index(3);
        let query = question("web.shop.internal", QTYPE::TYPE(TYPE::A));
        let first = |turn| ips(&decide(&query, &index, Transport::Udp, turn))[0];
        assert_eq!(
            [first(0), first(1), first(2), first(3)].map(|ip| ip.octets()[3]),
            [0, 1, 2, 0]
        );
    }

    #[test]
    fn a_large_answer_is_cut_to_what_the_asker_can_take() {
        let index = index(250);
        let query = question("web.shop.internal", QTYPE::TYPE(TYPE::A));
        let Verdict::Answer(udp) = decide(&query, &index, Transport::Udp, 5) else {
            panic!()
        };
        assert!(udp.len() <= 512 && udp.len() > 300, "{}", udp.len());
        assert_eq!(ips(&decide(&query, &index, Transport::Tcp, 5)).len(), 250);
    }

    #[test]
    fn what_is_not_one_plain_question_is_refused_or_dropped() {
        let index = index(1);
        let ask = |bytes: &[u8]| decide(bytes, &index, Transport::Udp, 0);
        assert_eq!(ask(&[]), Verdict::Silence);
        assert_eq!(ask(&[0; 11]), Verdict::Silence);
        let good = question("web.shop.internal", QTYPE::TYPE(TYPE::A));
        let changed = |at: usize, to: u8| {
            let mut bytes = good.clone();
            bytes[at] = to;
            bytes
        };
        assert_eq!(ask(&changed(2, 0x80)), Verdict::Silence, "an answer");
        assert_eq!(code(&ask(&changed(2, 0x28))), 4, "an update");
        for (at, to) in [(5, 0), (5, 2), (7, 1), (8, 255), (10, 255), (11, 3)] {
            assert_eq!(code(&ask(&changed(at, to))), 1, "count at {at} claims {to}");
        }
        for length in 12..good.len() {
            assert_eq!(code(&ask(&good[..length])), 1);
        }
        // Any damage gets some answer or none, never a panic.
        for at in 0..good.len() {
            for to in 0..=255 {
                let _any = ask(&changed(at, to));
            }
        }
    }

    #[test]
    fn without_egress_other_names_are_refused() {
        let mut index = index(1);
        index.egress = Egress::Denied;
        let ask = |name: &str| decide(&question(name, QTYPE::TYPE(TYPE::A)), &index, Transport::Udp, 0);
        assert_eq!(code(&ask("example.com")), 5);
        assert_eq!(ips(&ask("web.shop.internal")).len(), 1);
    }
}

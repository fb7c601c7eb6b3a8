//! ID tokens: read, and believed or not.
//!
//! Lives here: which signatures count, and what the claims must be. Does not live here: the arithmetic (`ring`).
//! Invariant: nothing of the payload counts before its signature fits a key that the provider published, by an algorithm of
//! that key's own kind: `none` and shared secrets are no algorithms.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::Value;

/// Clocks of two machines differ by less than this.
const LEEWAY_S: u64 = 60;
/// A token of more than that is none.
const LENGTH_MAX: usize = 16 << 10;

/// Somebody, as the provider knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Who, for ever, at this provider.
    pub subject: String,
    /// Their address, if the provider has verified it.
    pub verified_email: Option<String>,
    /// What they are called.
    pub name: Option<String>,
}

/// The keys that a provider publishes.
#[derive(Debug, Clone, Deserialize)]
pub struct Keys {
    keys: Vec<Key>,
}

#[derive(Debug, Clone, Deserialize)]
struct Key {
    kty: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default, rename = "use")]
    purpose: Option<String>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
}

pub(crate) struct Wanted<'w> {
    pub(crate) issuer: &'w str,
    pub(crate) audience: &'w str,
    pub(crate) nonce: &'w str,
    pub(crate) now_s: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It may be a newer one.
    UnknownKey,
    Wrong(&'static str),
}

impl Failure {
    pub(crate) fn why(self) -> &'static str {
        match self {
            Self::UnknownKey => "it is signed by a key that the provider does not publish",
            Self::Wrong(why) => why,
        }
    }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    crit: Option<Value>,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Value,
    exp: u64,
    iat: u64,
    #[serde(default)]
    nbf: Option<u64>,
    #[serde(default)]
    azp: Option<String>,
    #[serde(default)]
    nonce: Option<String>,
    #[serde(default)]
    email: Option<String>,
    // Some say it as a text.
    #[serde(default)]
    email_verified: Value,
    #[serde(default)]
    name: Option<String>,
}

/// Whom a token names.
pub(crate) fn check(text: &str, keys: &Keys, wanted: &Wanted<'_>) -> Result<Identity, Failure> {
    let wrong = Failure::Wrong;
    if text.len() > LENGTH_MAX {
        return Err(wrong("it is too long"));
    }
    let (signed, signature) = text.rsplit_once('.').ok_or(wrong("it has no signature"))?;
    let (header, payload) = signed.split_once('.').ok_or(wrong("it has not three parts"))?;
    let part = |text: &str| {
        BASE64
            .decode(text)
            .map_err(|_| wrong("a part of it is no base64"))
    };
    let header: Header =
        serde_json::from_slice(&part(header)?).map_err(|_| wrong("its header cannot be read"))?;
    if header.crit.is_some() {
        return Err(wrong("its header demands what is not known here"));
    }
    check_signature(&header, keys, signed.as_bytes(), &part(signature)?)?;
    let claims: Claims =
        serde_json::from_slice(&part(payload)?).map_err(|_| wrong("its claims cannot be read"))?;
    check_claims(&claims, wanted).map_err(Failure::Wrong)?;
    let is_verified = claims.email_verified == Value::Bool(true) || claims.email_verified == "true";
    Ok(Identity {
        subject: claims.sub,
        verified_email: claims.email.filter(|_| is_verified),
        name: claims.name,
    })
}

fn check_claims(claims: &Claims, wanted: &Wanted<'_>) -> Result<(), &'static str> {
    if claims.iss != wanted.issuer {
        return Err("another provider issued it");
    }
    let (is_for_us, is_for_others) = match &claims.aud {
        Value::String(one) => (one == wanted.audience, false),
        Value::Array(all) => (
            all.iter().any(|one| one == wanted.audience),
            all.iter().any(|one| one != wanted.audience),
        ),
        _other => (false, true),
    };
    if !is_for_us {
        return Err("it is for somebody else");
    }
    if (is_for_others || claims.azp.is_some()) && claims.azp.as_deref() != Some(wanted.audience) {
        return Err("it was given to somebody else");
    }
    if claims.exp.saturating_add(LEEWAY_S) <= wanted.now_s {
        return Err("it has expired");
    }
    let soonest = claims.nbf.unwrap_or(claims.iat).max(claims.iat);
    if soonest > wanted.now_s.saturating_add(LEEWAY_S) {
        return Err("it is of a time to come");
    }
    if wanted.nonce.is_empty() || claims.nonce.as_deref() != Some(wanted.nonce) {
        return Err("it answers another sign-in");
    }
    if claims.sub.is_empty() || claims.sub.len() > 255 {
        return Err("it names nobody");
    }
    Ok(())
}

fn check_signature(header: &Header, keys: &Keys, signed: &[u8], signature: &[u8]) -> Result<(), Failure> {
    let kind = match header.alg.as_str() {
        "RS256" | "PS256" => "RSA",
        "ES256" => "EC",
        "EdDSA" => "OKP",
        // Also `none`, and HS256, for which a public key would be the secret.
        _other => return Err(Failure::Wrong("it is signed by an algorithm that is not taken")),
    };
    let fits = |key: &&Key| {
        key.kty == kind
            && key.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
            && key.alg.as_deref().is_none_or(|alg| alg == header.alg)
            && (header.kid.is_none() || key.kid == header.kid)
    };
    let mut fitting = keys.keys.iter().filter(fits);
    let key = fitting.next().ok_or(Failure::UnknownKey)?;
    if header.kid.is_none() && fitting.next().is_some() {
        return Err(Failure::Wrong("it does not say which key signed it"));
    }
    let number = |text: &Option<String>| {
        let bytes = text.as_ref().and_then(|text| BASE64.decode(text).ok());
        bytes.ok_or(Failure::Wrong("the provider's key cannot be read"))
    };
    let verified = match (header.alg.as_str(), key.crv.as_deref()) {
        ("RS256", _) => RsaPublicKeyComponents {
            n: number(&key.n)?,
            e: number(&key.e)?,
        }
        .verify(&signature::RSA_PKCS1_2048_8192_SHA256, signed, signature),
        ("PS256", _) => RsaPublicKeyComponents {
            n: number(&key.n)?,
            e: number(&key.e)?,
        }
        .verify(&signature::RSA_PSS_2048_8192_SHA256, signed, signature),
        ("ES256", Some("P-256")) => {
            let mut point = vec![4];
            point.extend(number(&key.x)?);
            point.extend(number(&key.y)?);
            UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(signed, signature)
        }
        ("EdDSA", Some("Ed25519")) => {
            UnparsedPublicKey::new(&signature::ED25519, number(&key.x)?).verify(signed, signature)
        }
        _other => return Err(Failure::Wrong("the provider's key is of another curve")),
    };
    verified.map_err(|_| Failure::Wrong("its signature does not fit"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{Ed25519KeyPair, KeyPair as _};
    use serde_json::json;

    const NOW: u64 = 1_800_000_000;

    /// A token by a key of ours, whose claims `change` changes, and what it is believed to say.
    fn believed(change: impl FnOnce(&mut Value)) -> Result<Identity, &'static str> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a key");
        let key = json!({"kty": "OKP", "crv": "Ed25519", "kid": "one", "use": "sig",
            "x": BASE64.encode(pair.public_key())});
        let keys: Keys = serde_json::from_value(json!({"keys": [key]})).expect("keys");
        let mut claims = json!({"iss": "https://id.example.org", "sub": "ada", "aud": "stoa", "nonce": "n",
            "iat": NOW, "exp": NOW + 300, "email": "ada@example.org", "email_verified": true});
        change(&mut claims);
        let header = json!({"alg": "EdDSA", "kid": "one"});
        let encode = |value: &Value| BASE64.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let text = format!("{signed}.{}", BASE64.encode(pair.sign(signed.as_bytes())));
        let wanted = Wanted {
            issuer: "https://id.example.org",
            audience: "stoa",
            nonce: "n",
            now_s: NOW,
        };
        check(&text, &keys, &wanted).map_err(Failure::why)
    }

    #[test]
    fn one_wrong_claim_is_enough() {
        let with = |name: &'static str, value: Value| move |claims: &mut Value| claims[name] = value;
        let without = |name: &'static str| {
            move |claims: &mut Value| drop(claims.as_object_mut().expect("claims").remove(name))
        };
        assert_eq!(believed(|_| ()).expect("good").subject, "ada");
        let elsewhere = "another provider issued it";
        for issuer in ["https://id.example.org/", "https://ID.example.org", ""] {
            assert_eq!(believed(with("iss", json!(issuer))), Err(elsewhere), "{issuer}");
        }
        for audience in [
            json!("other"),
            json!([]),
            json!(["other"]),
            json!(null),
            json!({}),
        ] {
            let said = believed(with("aud", audience.clone()));
            assert_eq!(said, Err("it is for somebody else"), "{audience}");
        }
        let given = "it was given to somebody else";
        assert_eq!(believed(with("aud", json!(["stoa", "other"]))), Err(given));
        assert_eq!(believed(with("azp", json!("other"))), Err(given));
        assert!(
            believed(with("azp", json!("stoa"))).is_ok() && believed(with("aud", json!(["stoa"]))).is_ok()
        );
        assert_eq!(
            believed(with("nonce", json!("m"))),
            Err("it answers another sign-in")
        );
        assert_eq!(believed(without("nonce")), Err("it answers another sign-in"));
        for subject in [String::new(), "x".repeat(256)] {
            assert_eq!(believed(with("sub", json!(subject))), Err("it names nobody"));
        }
        for claim in ["iss", "sub", "aud", "iat", "exp"] {
            assert_eq!(
                believed(without(claim)),
                Err("its claims cannot be read"),
                "{claim}"
            );
        }
        for number in [json!("1800000300"), json!(-1), json!(1.5)] {
            let said = believed(with("exp", number.clone()));
            assert_eq!(said, Err("its claims cannot be read"), "{number}");
        }
    }

    /// Clocks differ by a minute at most, in both directions.
    #[test]
    fn times_count_to_a_minute() {
        for (claim, value, is_good) in [
            ("exp", NOW - LEEWAY_S + 1, true),
            ("exp", NOW - LEEWAY_S, false),
            ("iat", NOW + LEEWAY_S, true),
            ("iat", NOW + LEEWAY_S + 1, false),
            ("nbf", NOW + LEEWAY_S, true),
            ("nbf", NOW + LEEWAY_S + 1, false),
        ] {
            let said = believed(|claims| claims[claim] = json!(value));
            assert_eq!(said.is_ok(), is_good, "{claim} {value}: {said:?}");
        }
    }

    #[test]
    fn an_address_counts_only_when_it_is_verified() {
        for (verified, counts) in [
            (json!(true), true),
            (json!("true"), true),
            (json!(false), false),
            (json!("false"), false),
            (json!(1), false),
            (json!(null), false),
        ] {
            let said = believed(|claims| claims["email_verified"] = verified.clone());
            let email = said.expect("good").verified_email;
            assert_eq!(email.is_some(), counts, "{verified}");
        }
    }
}

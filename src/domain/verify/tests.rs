//! Every scheme against requests that its provider's own library signed or accepted, never against our own code.

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::claim::{Rejected, Request};
use super::diagnosis::{Reason, diagnose};
use super::*;

/// A signed request, and the library that stands for it.
struct Vector {
    scheme: &'static str,
    secret: &'static str,
    url: &'static str,
    /// The signature first; then what is signed with it.
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
}

/// Time at which all of them were signed.
const SIGNED_AT: Timestamp = Timestamp::from_millis(1_700_000_000_000);

const BODY: &str = r#"{"id":"evt_1PqLm8","type":"charge.succeeded","created":1700000000,"text":"Zürich é \u00e9 \"x\""}"#;

const VECTORS: &[Vector] = &[
    // Signed by npm stripe 23.1.0, generateTestHeaderString.
    Vector {
        scheme: "stripe",
        secret: "whsec_test_9f",
        url: "",
        headers: &[(
            "Stripe-Signature",
            "t=1700000000,v1=97d582844d3a301354213628c7be88b18eb43c372df5e6fc545c3ab7320d6fc1",
        )],
        body: BODY,
    },
    // Signed by npm @octokit/webhooks-methods 6.0.0.
    Vector {
        scheme: "github",
        secret: "It's a Secret to Everybody",
        url: "",
        headers: &[(
            "X-Hub-Signature-256",
            "sha256=6f60f2ffccf37dcc1fe5cb107591cc7b8892df4cb0f3b55087cd43f34695c09f",
        )],
        body: BODY,
    },
    // The example of the provider's documentation, named in github.rs.
    Vector {
        scheme: "github",
        secret: "It's a Secret to Everybody",
        url: "",
        headers: &[(
            "X-Hub-Signature-256",
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
        )],
        body: "Hello, World!",
    },
    // Accepted by npm @shopify/shopify-api 13.1.0.
    Vector {
        scheme: "shopify",
        secret: "shpss_secret",
        url: "",
        headers: &[(
            "X-Shopify-Hmac-Sha256",
            "BOiREgqIm/PZ5I/xqT+9d+8DjwcBaqiOpMHw10bJrzQ=",
        )],
        body: BODY,
    },
    // Signed by PyPI slack_sdk 3.48.0, SignatureVerifier.
    Vector {
        scheme: "slack",
        secret: "8f742231b10e8888abcd99yyyzzz85a5",
        url: "",
        headers: &[
            (
                "X-Slack-Signature",
                "v0=c2de2ab5a89c3a473c174ec5b28709b782e10999e0a1d4b894eb573e337f37da",
            ),
            ("X-Slack-Request-Timestamp", "1700000000"),
        ],
        body: BODY,
    },
    // Signed by npm twilio 6.3.1: a form, then a JSON body whose hash is in the URL.
    Vector {
        scheme: "twilio",
        secret: "12345",
        url: "https://hooks.example.com/in/sms?room=7",
        headers: &[("X-Twilio-Signature", "yBZ+iy8bi2Nrg66SYN/k6N8Ejao=")],
        body: "To=%2B18005551212&From=%2B14158675309&Body=Z%C3%BCrich+%26+more&CallSid=CA1234567890ABCDE&Digits=1234&Empty=",
    },
    Vector {
        scheme: "twilio",
        secret: "12345",
        url: "https://hooks.example.com/in/sms?bodySHA256=d13a02cc3d516643344d602cc676c299f56f5944c37df79f0ef25b781afd52a6",
        headers: &[("X-Twilio-Signature", "rsXUwUH+AZHUiZdlcNP+gg521BQ=")],
        body: BODY,
    },
    // The secret itself, as the documentation named in gitlab.rs says.
    Vector {
        scheme: "gitlab",
        secret: "glpat-like-token",
        url: "",
        headers: &[("X-Gitlab-Token", "glpat-like-token")],
        body: BODY,
    },
    // Signed by npm standardwebhooks 1.1.1.
    Vector {
        scheme: "standard",
        secret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        url: "",
        headers: &[
            (
                "webhook-signature",
                "v1,OKeKO2eisAony4bo6/VaOs0K2oPKmwXa37ADKAXofNg=",
            ),
            ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
            ("webhook-timestamp", "1700000000"),
        ],
        body: BODY,
    },
    // Accepted by npm @paddle/paddle-node-sdk 3.10.0.
    Vector {
        scheme: "paddle",
        secret: "pdl_ntfset_01hs_secret",
        url: "",
        headers: &[(
            "Paddle-Signature",
            "ts=1700000000;h1=30634407cd146127059efd7817962d72edf2c0e0ef451bf75c5465c2c6e744f4",
        )],
        body: BODY,
    },
    // Accepted by npm square 46.0.0.
    Vector {
        scheme: "square",
        secret: "sq_key_asdf1234",
        url: "https://hooks.example.com/in/square",
        headers: &[(
            "x-square-hmacsha256-signature",
            "77N9bjWqgA1B0/NNjAh8CZ+lYaDg4tGnhUod1FxqTdw=",
        )],
        body: BODY,
    },
    // Signed by npm @hubspot/api-client 13.5.0.
    Vector {
        scheme: "hubspot",
        secret: "hs_secret",
        url: "https://hooks.example.com/in/crm?a=b",
        headers: &[
            (
                "X-HubSpot-Signature-v3",
                "iMpJzsuq/di2/y3VMr1th89yM92zfvWQmny+eOM9ONk=",
            ),
            ("X-HubSpot-Request-Timestamp", "1700000000000"),
        ],
        body: BODY,
    },
    // Accepted by npm @linear/sdk 98.0.0.
    Vector {
        scheme: "linear",
        secret: "lin_wh_secret",
        url: "",
        headers: &[(
            "Linear-Signature",
            "01ca1fdc02538d4ec4b09e3871a04ce504c9e78194f4c3534fcbd9d0916e6d9b",
        )],
        body: r#"{"action":"create","type":"Issue","webhookTimestamp":1700000000000,"webhookId":"w1"}"#,
    },
    // Signed by PyPI cryptography 50.0.2, accepted by PyPI sendgrid 6.12.5.
    Vector {
        scheme: "sendgrid",
        secret: "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEI1jgTbhhl/M/qh9bJt57VSrR/dWCMTXWbbywlRtp5NVyiF34ztDkaFinbhYzUe1BquygpUW529iA1Js04FuGug==",
        url: "",
        headers: &[
            (
                "X-Twilio-Email-Event-Webhook-Signature",
                "MEYCIQDpsYwkwlAGDdxKFioZsLzCKHoM9O4qotoq8ttvGUBR5wIhAITrr2hWkt+JF839qy4KydyojrkhiPEd6eHeb9UO8EXp",
            ),
            ("X-Twilio-Email-Event-Webhook-Timestamp", "1700000000"),
        ],
        body: BODY,
    },
    // The signatures of GitHub's and Slack's libraries above, with the scheme written down.
    Vector {
        scheme: "hmac:header=X-Hub-Signature-256,prefix=sha256=",
        secret: "It's a Secret to Everybody",
        url: "",
        headers: &[(
            "X-Hub-Signature-256",
            "sha256=6f60f2ffccf37dcc1fe5cb107591cc7b8892df4cb0f3b55087cd43f34695c09f",
        )],
        body: BODY,
    },
    Vector {
        scheme: "hmac:header=X-Slack-Signature,prefix=v0=,time=X-Slack-Request-Timestamp,signed=v0:{header:X-Slack-Request-Timestamp}:{body}",
        secret: "8f742231b10e8888abcd99yyyzzz85a5",
        url: "",
        headers: &[
            (
                "X-Slack-Signature",
                "v0=c2de2ab5a89c3a473c174ec5b28709b782e10999e0a1d4b894eb573e337f37da",
            ),
            ("X-Slack-Request-Timestamp", "1700000000"),
        ],
        body: BODY,
    },
];

/// A secret of the right form that signed nothing here.
fn other_secret(scheme: &str) -> &'static str {
    match scheme {
        "standard" => "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        // The key of RFC 6979 A.2.5.
        "sendgrid" => {
            "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEYP7UuiVanTHJYet0xjVtaMBJuJI7Yfx6eLsjzYhO91OqS3P7aBGgvKZP5t8k8oZsJJXDyO6iKJLLPnPBTzQtJg=="
        }
        _ => "another secret",
    }
}

impl Vector {
    fn verify(&self, secrets: &[&str]) -> Verify {
        let secrets = secrets.iter().map(|text| Secret::of_sender(text).unwrap());
        Verify {
            scheme: self.scheme.parse().unwrap(),
            tolerance: TOLERANCE_DEFAULT,
            public_url: Some(self.url.to_owned()).filter(|url| !url.is_empty()),
            secrets: Secrets {
                open: secrets.collect(),
                locked: Vec::new(),
            },
        }
    }

    fn headers(&self) -> HeaderMap {
        let headers = self.headers.iter();
        headers
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect()
    }

    fn signature(&self) -> HeaderName {
        self.headers[0].0.parse().unwrap()
    }

    fn check(
        &self,
        secrets: &[&str],
        headers: &HeaderMap,
        body: &[u8],
        at: Timestamp,
    ) -> Result<(), Rejected> {
        let request = Request {
            method: "POST",
            url: self.url,
            headers,
            body,
        };
        self.verify(secrets).check(&request, at).map(drop)
    }

    /// The verdict on the request with its first header otherwise.
    fn with_signature(&self, value: &[u8]) -> Result<(), Rejected> {
        let mut headers = self.headers();
        headers.insert(self.signature(), HeaderValue::from_bytes(value).unwrap());
        self.check(&[self.secret], &headers, self.body.as_bytes(), SIGNED_AT)
    }
}

#[test]
fn what_the_providers_libraries_sign_is_accepted_with_one_secret_or_two() {
    for vector in VECTORS {
        let (headers, body) = (vector.headers(), vector.body.as_bytes());
        let other = other_secret(vector.scheme);
        for secrets in [
            &[vector.secret][..],
            &[other, vector.secret],
            &[vector.secret, other],
        ] {
            let verdict = vector.check(secrets, &headers, body, SIGNED_AT);
            assert_eq!(verdict, Ok(()), "{}", vector.scheme);
        }
    }
}

#[test]
fn a_wrong_secret_and_none_are_rejected() {
    for vector in VECTORS {
        let (headers, body) = (vector.headers(), vector.body.as_bytes());
        for secrets in [&[other_secret(vector.scheme)][..], &[]] {
            let verdict = vector.check(secrets, &headers, body, SIGNED_AT);
            assert_eq!(verdict, Err(Rejected::NoMatch), "{}", vector.scheme);
        }
    }
}

#[test]
fn an_empty_signature_and_each_part_of_one_is_rejected() {
    for vector in VECTORS {
        let whole = vector.headers[0].1.as_bytes();
        for len in 0..whole.len() {
            let verdict = vector.with_signature(&whole[..len]);
            assert!(
                verdict.is_err(),
                "{}, {len} of {} bytes",
                vector.scheme,
                whole.len()
            );
        }
    }
}

#[test]
fn one_changed_byte_of_the_body_is_rejected() {
    for vector in VECTORS.iter().filter(|vector| vector.scheme != "gitlab") {
        let headers = vector.headers();
        for place in 0..vector.body.len() {
            let mut body = vector.body.as_bytes().to_vec();
            body[place] ^= 1;
            let verdict = vector.check(&[vector.secret], &headers, &body, SIGNED_AT);
            assert!(verdict.is_err(), "{}, byte {place}", vector.scheme);
        }
    }
}

#[test]
fn a_time_beyond_the_tolerance_is_rejected_on_either_side_where_one_is_signed() {
    let minutes = |n: i64| Timestamp::from_millis(SIGNED_AT.as_millis() + n * 60_000);
    for vector in VECTORS {
        let (headers, body) = (vector.headers(), vector.body.as_bytes());
        let verdict = |at| vector.check(&[vector.secret], &headers, body, at);
        for within in [-5, 5] {
            assert_eq!(verdict(minutes(within)), Ok(()), "{}", vector.scheme);
        }
        let (late, early) = (verdict(minutes(7)), verdict(minutes(-7)));
        match vector.verify(&[]).scheme.signs_time() {
            true => {
                assert_eq!(late, Err(Rejected::Clock(-420_000)), "{}", vector.scheme);
                assert_eq!(early, Err(Rejected::Clock(420_000)), "{}", vector.scheme);
            }
            false => assert_eq!((late, early), (Ok(()), Ok(())), "{}", vector.scheme),
        }
        // A wrong secret is told before the clock: the time is not trusted until the signature is.
        let wrong = vector.check(&[other_secret(vector.scheme)], &headers, body, minutes(7));
        assert_eq!(wrong, Err(Rejected::NoMatch), "{}", vector.scheme);
    }
}

#[test]
fn each_header_is_needed_once() {
    for vector in VECTORS {
        for (name, value) in vector.headers {
            let name: HeaderName = name.parse().unwrap();
            let verdict = |headers: &HeaderMap| {
                vector.check(&[vector.secret], headers, vector.body.as_bytes(), SIGNED_AT)
            };
            let mut headers = vector.headers();
            headers.remove(&name);
            assert_eq!(verdict(&headers), Err(Rejected::Missing(name.to_string())));
            headers.insert(&name, HeaderValue::from_static(""));
            assert_eq!(verdict(&headers), Err(Rejected::Missing(name.to_string())));
            for second in [*value, "x"] {
                let mut headers = vector.headers();
                headers.append(&name, second.parse().unwrap());
                let told = verdict(&headers).unwrap_err();
                assert!(
                    matches!(told, Rejected::Malformed(..)),
                    "{} {told:?}",
                    vector.scheme
                );
            }
        }
    }
}

#[test]
fn the_case_of_a_header_does_not_matter() {
    for vector in VECTORS {
        let headers = vector.headers.iter().map(|(name, value)| {
            let name = HeaderName::from_bytes(name.to_ascii_uppercase().as_bytes()).unwrap();
            (name, value.parse().unwrap())
        });
        let headers: HeaderMap = headers.collect();
        let verdict = vector.check(
            &[vector.secret],
            &headers,
            vector.body.as_bytes(),
            SIGNED_AT,
        );
        assert_eq!(verdict, Ok(()), "{}", vector.scheme);
    }
}

#[test]
fn a_list_may_have_eight_signatures_and_one_good_one_is_enough() {
    for (scheme, between, fill) in [
        ("stripe", ",", "v1=00"),
        ("paddle", ";", "h1=00"),
        ("standard", " ", "v1,AAAA"),
    ] {
        let vector = VECTORS
            .iter()
            .find(|vector| vector.scheme == scheme)
            .unwrap();
        let with = |times: usize| {
            let fill = vec![fill; times].join(between);
            let (front, last) = match vector.headers[0].1.split_once(between) {
                Some((time, signature)) => (format!("{time}{between}{fill}"), signature),
                None => (fill, vector.headers[0].1),
            };
            vector.with_signature(format!("{front}{between}{last}").as_bytes())
        };
        assert_eq!(with(7), Ok(()), "{scheme}");
        assert!(matches!(with(8), Err(Rejected::Malformed(..))), "{scheme}");
    }
    // Stripe adds v0 for test events; it proves nothing.
    let stripe = &VECTORS[0];
    let forged = stripe.headers[0].1.replace("v1=", "v0=");
    assert!(stripe.with_signature(forged.as_bytes()).is_err());
}

#[test]
fn a_diagnosis_names_the_cause() {
    let stripe = &VECTORS[0];
    let headers = stripe.headers();
    let told = |verify: &Verify, body: &str, others: &[(&str, &Verify)]| {
        let request = Request {
            method: "POST",
            url: "",
            headers: &headers,
            body: body.as_bytes(),
        };
        diagnose(verify, &request, others.iter().copied()).reason
    };
    let ours = stripe.verify(&[stripe.secret]);
    assert_eq!(told(&ours, &format!("{BODY}\n"), &[]), Reason::BodyChanged);
    let spaced = BODY.replace("\":", "\": ");
    assert_eq!(told(&ours, &spaced, &[]), Reason::BodyChanged);
    let wrong = stripe.verify(&["whsec_other"]);
    assert_eq!(told(&wrong, BODY, &[]), Reason::WrongSecret);
    assert_eq!(told(&wrong, BODY, &[("shop", &ours)]), Reason::OtherHook);
    let github = VECTORS[1].verify(&[stripe.secret]);
    assert_eq!(
        told(&wrong, BODY, &[("git", &github)]),
        Reason::WrongSecret,
        "another scheme"
    );

    let square = VECTORS
        .iter()
        .find(|vector| vector.scheme == "square")
        .unwrap();
    let (verify, headers) = (square.verify(&[square.secret]), square.headers());
    for url in [
        "http://hooks.example.com/in/square",
        "https://hooks.example.com/in/square/",
    ] {
        let request = Request {
            method: "POST",
            url,
            headers: &headers,
            body: BODY.as_bytes(),
        };
        assert_eq!(verify.check(&request, SIGNED_AT), Err(Rejected::NoMatch));
        let told = diagnose(&verify, &request, std::iter::empty());
        assert_eq!(told.reason, Reason::OtherUrl, "{url}");
    }
}

#[test]
fn a_scheme_reads_back_as_it_was_written() {
    for vector in VECTORS {
        let scheme: Scheme = vector.scheme.parse().unwrap();
        assert_eq!(scheme.to_string().parse::<Scheme>().unwrap(), scheme);
    }
    for (wrong, part) in [
        ("", "is not a scheme"),
        ("Stripe", "is not a scheme"),
        ("paypal", "cannot be verified without asking PayPal"),
        ("hmac:", "header of the signature"),
        ("hmac:header", "is not NAME=VALUE"),
        ("hmac:header=a b", "not a header's name"),
        ("hmac:header=x,algorithm=md5", "not sha1, sha256 or sha512"),
        ("hmac:header=x,encoding=raw", "not hex or base64"),
        ("hmac:header=x,colour=red", "no part \"colour\""),
        ("hmac:header=x,signed={header:y}", "the body is not signed"),
        ("hmac:header=x,signed={bdy}", "knows no {bdy}"),
        ("hmac:header=x,signed={body", "has no }"),
        ("hmac:header=x,time=t,signed={body}", "is not signed"),
    ] {
        let told = wrong.parse::<Scheme>().unwrap_err().to_string();
        assert!(told.contains(part), "{wrong}: {told}");
    }
}

#[test]
fn the_query_that_came_is_part_of_the_url_unless_the_url_has_one() {
    let twilio = VECTORS
        .iter()
        .find(|vector| vector.scheme == "twilio")
        .unwrap();
    let mut verify = twilio.verify(&[]);
    verify.public_url = Some("https://a.example/in/x".into());
    assert_eq!(verify.url(Some("k=v")), "https://a.example/in/x?k=v");
    assert_eq!(verify.url(Some("")), "https://a.example/in/x");
    verify.public_url = Some("https://a.example/in/x?b=c".into());
    assert_eq!(verify.url(Some("k=v")), "https://a.example/in/x?b=c");
}

proptest! {
    #[test]
    fn no_bytes_in_a_header_or_body_panic_or_are_believed(
        which in 0..VECTORS.len(),
        values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..4),
        shape in "(t|ts|v1|h1|v0|sha256)=[0-9a-f=,; -]{0,80}",
        body in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let vector = &VECTORS[which];
        let mut headers = HeaderMap::new();
        let texts = values.iter().map(Vec::as_slice).chain([shape.as_bytes()]);
        for (header, text) in vector.headers.iter().zip(texts) {
            if let Ok(value) = HeaderValue::from_bytes(text) {
                headers.insert(HeaderName::from_bytes(header.0.as_bytes()).unwrap(), value);
            }
        }
        let verdict = vector.check(&[vector.secret], &headers, &body, SIGNED_AT);
        prop_assert!(verdict.is_err());
        headers.insert(vector.signature(), HeaderValue::from_str(&shape).unwrap_or(HeaderValue::from_static("x")));
        prop_assert!(vector.check(&[vector.secret], &headers, &body, SIGNED_AT).is_err());
    }

    #[test]
    fn no_text_of_a_scheme_panics(text in "(hmac:)?[a-z={}:,A-Z-]{0,60}") {
        let _ = text.parse::<Scheme>();
    }
}

/// Requests of every scheme, each tried with [`VARIANTS`] hostile variants of its headers, body and URL.
const VARIANTS: usize = 2_000;

#[test]
fn no_hostile_variant_of_a_signed_request_panics_or_is_believed() {
    let mut mutation = crate::mutation::Mutation::seeded(6);
    let mut executions = 0;
    for vector in VECTORS {
        let verify = vector.verify(&[vector.secret]);
        let others = [("other", &verify)];
        let values: Vec<_> = vector.headers.iter().map(|(_, value)| *value).collect();
        for n in 0..VARIANTS {
            let mut headers = HeaderMap::new();
            for (name, value) in vector.headers {
                let name: HeaderName = name.parse().unwrap();
                let changed = match mutation.below(3) {
                    0 => value.as_bytes().to_vec(),
                    _ => mutation.of(&values),
                };
                if let Ok(value) = HeaderValue::from_bytes(&changed) {
                    headers.append(name, value);
                }
            }
            let body = match mutation.below(2) {
                0 => vector.body.as_bytes().to_vec(),
                _ => mutation.of(&[vector.body, "{}", "[[[[", "a=1&b=%zz"]),
            };
            let request = Request {
                method: "POST",
                url: vector.url,
                headers: &headers,
                body: &body,
            };
            // A header whose change means nothing, such as another unknown version, leaves it signed.
            let is_same = body == vector.body.as_bytes();
            let verdict = verify.check(&request, SIGNED_AT);
            let is_secret = vector.scheme == "gitlab";
            assert!(
                verdict.is_err() || is_same || is_secret,
                "{} {headers:?}",
                vector.scheme
            );
            if n % 40 == 0 {
                let _ = diagnose(&verify, &request, others.into_iter());
                let _ = crate::domain::handshake::signed(None, &verify, &request);
            }
            executions += 1;
        }
    }
    assert_eq!(executions, VECTORS.len() * VARIANTS);
    assert!(executions > 25_000, "{executions}");
}

#[test]
fn no_hostile_query_of_a_handshake_panics() {
    let good = [
        "hub.mode=subscribe&hub.challenge=7&hub.verify_token=t%5F1",
        "validationToken=a+b%3Ac",
        "crc_token=9b4507b3-9040&nonce=%00",
    ];
    let mut mutation = crate::mutation::Mutation::seeded(7);
    let verify = VECTORS[0].verify(&[VECTORS[0].secret]);
    for _ in 0..30_000 {
        let query = String::from_utf8_lossy(&mutation.of(&good)).into_owned();
        let _ = crate::domain::handshake::meta(&query);
        let _ = crate::domain::handshake::graph(&query);
        let _ = crate::domain::handshake::x(&query, &verify);
    }
}

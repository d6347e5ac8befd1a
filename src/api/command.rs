//! Command lines that answers suggest to people. They are complete and quoted for a POSIX shell,
//! because senders choose the names of streams.

use crate::domain::lane::LaneId;
use crate::domain::name::{Name, StreamName};
use crate::text::quoted;

/// The command that explains a stream, such as `hooklane why orders/acme`.
pub fn why(stream: &StreamName) -> String {
    format!("hooklane why {}", quoted(stream.short()))
}

/// A command about a cursor, such as `hooklane streams retry orders/acme --handler reduce`.
pub fn streams(verb: &str, stream: &StreamName, handler: &Name) -> String {
    let stream = quoted(stream.short());
    format!("hooklane streams {verb} {stream} --handler {handler}")
}

/// A command about a hook, such as `hooklane hooks resume orders`.
pub fn hooks(verb: &str, hook: &Name) -> String {
    format!("hooklane hooks {verb} {hook}")
}

/// A command about a lane, such as `hooklane lanes resume 3`.
pub fn lanes(verb: &str, lane: &LaneId) -> String {
    let index = lane.index;
    in_namespace(format!("hooklane lanes {verb} {index}"), &lane.namespace)
}

/// The command that resizes a namespace, such as `hooklane lanes resize 16`.
pub fn resize(lanes: u16, namespace: &Name) -> String {
    in_namespace(format!("hooklane lanes resize {lanes}"), namespace)
}

/// Adds the namespace to a command, unless it is the default one.
pub fn in_namespace(command: String, namespace: &Name) -> String {
    match *namespace == Name::default_namespace() {
        true => command,
        false => format!("{command} --namespace {namespace}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_only_the_default_namespace_goes_unnamed() {
        let stream: StreamName = "pay/y;touch PWNED;#".parse().unwrap();
        assert_eq!(why(&stream), "hooklane why 'pay/y;touch PWNED;#'");
        let retry = "hooklane streams retry 'pay/y;touch PWNED;#' --handler reduce";
        assert_eq!(streams("retry", &stream, &"reduce".parse().unwrap()), retry);
        let lane = |name: &str| lanes("resume", &name.parse().unwrap());
        assert_eq!(lane("default-115-3"), "hooklane lanes resume 3");
        let other = "hooklane lanes resume 1 --namespace default-eu";
        assert_eq!(lane("default-eu-1-1"), other);
    }
}

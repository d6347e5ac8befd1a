//! The Debian package has all its files, and its unit permits exactly what the daemon needs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::daemon::Setup;
use super::world::{World, until};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn unit() -> PathBuf {
    root().join("src/package/hooklane.service")
}

#[test]
fn everything_that_the_package_takes_is_in_the_tree() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let deb = &manifest["package"]["metadata"]["deb"];
    let assets = deb["assets"].as_array().unwrap();
    let sources: Vec<_> = assets
        .iter()
        .map(|asset| asset[0].as_str().unwrap())
        .collect();
    assert_eq!(sources[0], "target/release/hooklane");
    for source in &sources[1..] {
        let found = match source.strip_suffix("/*.1") {
            Some(dir) => root().join(dir).join("hooklane.1").exists(),
            None => root().join(source).exists(),
        };
        assert!(found, "{source}");
    }
    let completions = std::fs::read_dir(root().join("completions")).unwrap();
    for file in completions.map(|entry| entry.unwrap().file_name()) {
        let file = format!("completions/{}", file.to_str().unwrap());
        assert!(sources.contains(&file.as_str()), "{file} is not packaged");
    }
    let units = deb["maintainer-scripts"].as_str().unwrap();
    let name = deb["systemd-units"]["unit-name"].as_str().unwrap();
    let unit = root().join(units).join(format!("{name}.service"));
    assert_eq!(unit, self::unit());
    assert!(unit.exists());
}

#[test]
fn the_unit_starts_what_the_command_line_knows() {
    let text = std::fs::read_to_string(unit()).unwrap();
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix(key));
        lines.next().unwrap_or_else(|| panic!("{key}")).to_owned()
    };
    let start = value("ExecStart=/usr/bin/");
    let parsed = hooklane::cli::tree().try_get_matches_from(start.split_whitespace());
    assert!(parsed.is_ok(), "{start}");
    let tree = hooklane::cli::tree();
    let serve = tree.find_subcommand("serve").unwrap();
    for setting in value("Environment=").split_whitespace() {
        let name = setting.split('=').next().unwrap();
        let is_known = |arg: &clap::Arg| arg.get_env().is_some_and(|env| env == name);
        assert!(serve.get_arguments().any(is_known), "{name}");
    }
}

#[test]
fn the_unit_is_hardened() {
    if !Path::new("/usr/bin/systemd-analyze").exists() {
        eprintln!("NOT RUN: the_unit_is_hardened needs systemd-analyze");
        return;
    }
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=true", "--no-pager", "--threshold=20"]);
    let judged = analyze.arg(unit()).output().unwrap();
    let said = String::from_utf8_lossy(&judged.stdout);
    let last = said.lines().last().unwrap_or_default();
    assert!(judged.status.success(), "more exposed than 2.0: {last}");
}

fn package(name: &str) -> String {
    std::fs::read_to_string(root().join("src/package").join(name)).unwrap()
}

/// Every word of a text that begins with `prefix`.
fn words(text: &str, prefix: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_part(c));
    let words = words.filter(|word| word.starts_with(prefix));
    words.map(str::to_owned).collect()
}

#[test]
fn rules_and_dashboard_use_metrics_that_a_node_shows() {
    let hooks = "[[hooks]]\nname = 'late'\nreduce = 'fails.js'\n";
    let fails = "export default function reduce() { throw new Error('no'); }";
    let world = World::new(Setup::Embedded, &[("fails.js", fails)], hooks);
    world.accepted("late", "{}");
    let page = until(|| {
        let page = String::from_utf8(world.get("/metrics").body).unwrap();
        page.contains("hooklane_hook_held_cursors{hook=\"late\"} 1\n")
            .then_some(page)
    });
    for line in [
        "hooklane_hook_backlog_events{hook=\"late\"} 1\n",
        "hooklane_hook_oldest_seconds{hook=\"late\"} ",
        "hooklane_lane_backlog_events{lane=\"",
        "hooklane_database_up 1\n",
        "hooklane_redis_up 1\n",
        "hooklane_process_open_files ",
    ] {
        assert!(page.contains(line), "{line} is not on\n{page}");
    }
    let shown = words(&page, "hooklane_");
    for file in ["alerts.yaml", "grafana.json"] {
        let mut used = words(&package(file), "hooklane_");
        // It appears with the first rejected request.
        used.remove("hooklane_events_rejected_total");
        assert!(used.len() > 5, "{file}");
        let unknown: Vec<_> = used.difference(&shown).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
}

#[test]
fn prometheus_accepts_the_rules() {
    let mut promtool = Command::new("promtool");
    let rules = root().join("src/package/alerts.yaml");
    match promtool.args(["check", "rules"]).arg(rules).output() {
        Ok(checked) => assert!(checked.status.success(), "{checked:?}"),
        Err(_) => eprintln!(
            "NOT RUN: prometheus_accepts_the_rules needs promtool, apt install prometheus"
        ),
    }
}

#[test]
fn images_and_manifests_start_what_the_command_line_knows() {
    let tree = hooklane::cli::tree();
    let serve = tree.find_subcommand("serve").unwrap();
    let known: BTreeSet<_> = serve
        .get_arguments()
        .chain(tree.get_arguments())
        .filter_map(|arg| Some(arg.get_env()?.to_str()?.to_owned()))
        .collect();
    for file in [
        "Dockerfile",
        "compose.yaml",
        "kubernetes/embedded.yaml",
        "kubernetes/nodes.yaml",
    ] {
        let text = package(file);
        let unknown: Vec<_> = words(&text, "HOOKLANE_")
            .difference(&known)
            .cloned()
            .collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
        assert!(text.contains("serve"), "{file}");
    }
}

#[test]
fn what_rules_say_to_type_is_a_command() {
    let rules = package("alerts.yaml");
    let typed = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("runbook: "));
    let mut commands = 0;
    for text in typed.flat_map(|line| line.split([';', '.', ','])) {
        let text = text.trim().trim_matches('"');
        let Some(command) = text.strip_prefix("hooklane ") else {
            continue;
        };
        let is_word =
            |word: &&str| word.starts_with('-') || word.chars().all(|c| c.is_ascii_lowercase());
        let names: Vec<_> = command.split(' ').take_while(is_word).collect();
        let mut at = hooklane::cli::tree();
        for name in names {
            match at.find_subcommand(name) {
                Some(found) => at = found.clone(),
                None => break,
            }
        }
        assert_ne!(at.get_name(), "hooklane", "{command}");
        commands += 1;
    }
    assert!(commands > 8, "{commands} commands were found");
}

//! The Debian package has all its files, and its unit permits exactly what the daemon needs.

use std::path::{Path, PathBuf};
use std::process::Command;

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
        eprintln!("systemd-analyze is not here: nothing was looked at");
        return;
    }
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=true", "--no-pager", "--threshold=20"]);
    let judged = analyze.arg(unit()).output().unwrap();
    let said = String::from_utf8_lossy(&judged.stdout);
    let last = said.lines().last().unwrap_or_default();
    assert!(judged.status.success(), "more exposed than 2.0: {last}");
}

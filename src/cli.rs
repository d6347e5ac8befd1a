//! The command line: the tree of commands, and what they share.
//!
//! One file for each noun and each lone verb. Each verb is a struct of its flags with a `run` method,
//! which gets a [`Reach`] to send requests and a [`Printer`] for its output. Values come from the flag,
//! then the environment, then the default; there is no configuration file.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "comments on commands and flags are their help, which shows brackets as they are"
)]

mod audit;
mod backup;
mod bench;
mod complete;
mod deliveries;
mod demo;
mod doctor;
mod events;
mod exit;
mod export;
mod flags;
mod help;
mod hooks;
mod keys;
mod lanes;
mod listen;
mod lock;
mod log;
mod migrate;
mod namespaces;
mod order;
mod print;
mod reach;
mod restore;
mod send;
mod serve;
mod shell;
mod state;
mod status;
mod streams;
mod table;
mod top;
mod why;

use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

pub use exit::{Exit, Trouble};
use flags::Global;
pub use print::Printer;
use print::{Output, Style};
use reach::{Offline, Reach};

use crate::engine::reduce;
use crate::text::printable;

/// Receives webhooks, keeps each one, and processes them strictly in order
#[derive(Parser)]
#[command(name = "hooklane", version, disable_help_subcommand = true)]
#[command(after_help = "Every command explains itself: hooklane COMMAND --help")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    Bench(bench::Bench),
    Demo(demo::Demo),
    Doctor(doctor::Doctor),
    Serve(Box<serve::Serve>),
    Send(send::Send),
    Listen(listen::Listen),
    Status(status::Status),
    Top(top::Top),
    #[command(subcommand)]
    Hooks(Box<hooks::Hooks>),
    #[command(subcommand)]
    Events(events::Events),
    #[command(subcommand)]
    State(state::State),
    #[command(subcommand)]
    Streams(streams::Streams),
    #[command(subcommand)]
    Lanes(lanes::Lanes),
    Why(why::Why),
    #[command(subcommand)]
    Audit(audit::Audit),
    #[command(subcommand)]
    Keys(keys::Keys),
    #[command(subcommand)]
    Namespaces(namespaces::Namespaces),
    Backup(backup::Backup),
    Restore(restore::Restore),
    Migrate(migrate::Migrate),
    Completions(shell::Completions),
    Man(shell::Man),
}

/// Output of `hooklane` without arguments.
const WELCOME: &str = "\
hooklane receives webhooks, keeps each one, and processes them strictly in
order.

  hooklane demo                                see it work; nothing to set up
  hooklane serve                               run it
  hooklane hooks create hello --reduce latest  in a second window: a hook
  hooklane send hello --body '{\"n\":1}'         post an event and follow it
  hooklane state show hello                    the state after that event
  hooklane keys create --type write --hook hello --name me
                                               a key for other machines
  hooklane top                                 watch it live: depth, latency,
                                               whose fault it is

All commands: hooklane --help     One of them: hooklane send --help";

/// The tree of commands, with the global flags.
pub fn tree() -> clap::Command {
    help::flowed(flags::with_data_everywhere(Cli::command()))
}

/// Runs the program. The first argument is its own name.
pub fn main(args: impl IntoIterator<Item = OsString>) -> Exit {
    let args: Vec<OsString> = args.into_iter().collect();
    if args.get(1).is_some_and(|first| first == reduce::ARGUMENT) {
        reduce::serve();
        return Exit::Done;
    }
    if complete::answer(&args, tree) {
        return Exit::Done;
    }
    let output = flags::output_of(&args);
    let tree = without_empty_variables(tree());
    let matches = match tree.clone().try_get_matches_from(&args) {
        Ok(matches) => matches,
        Err(error) => return misread(&error, output, &args),
    };
    if let Some(arg) = flags::empty(&tree, &matches) {
        let style = Style {
            output,
            ..Style::default()
        };
        return tell(exit::no_value(&arg).into(), &mut Printer::new(style));
    }
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return misread(&error, output, &args),
    };
    let mut style = cli.global.style();
    if style.null && style.output != Output::Names {
        let trouble = Trouble::usage("--null ends names: it goes with -o names");
        return tell(trouble.into(), &mut Printer::new(style));
    }
    if matches!(cli.command, Some(Command::Serve(_))) && output == Output::Json {
        style.output = Output::Json;
    }
    let mut out = Printer::new(style);
    let ended = run(cli, &matches, &mut out);
    // Data that could not be written must not look like success.
    let ended = ended.and_then(|exit| {
        out.flush().context("the output cannot be written")?;
        Ok(exit)
    });
    ended.unwrap_or_else(|error| tell(error, &mut out))
}

/// Treats empty environment variables as not set, for example `HOOKLANE_REDIS=` in a unit file.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    command
        .mut_args(|arg| match arg.get_env().is_some_and(is_empty) {
            true => arg.env(None::<&str>),
            false => arg,
        })
        .mut_subcommands(without_empty_variables)
}

/// Prints a clap error. Help and version go to stdout and are no error; everything else is a usage
/// error, in JSON if that output was requested.
fn misread(error: &clap::Error, output: Output, args: &[OsString]) -> Exit {
    if error.exit_code() == 0 {
        // A closed pipe is no error here.
        let _ = error.print();
        return Exit::Done;
    }
    let is_for_programs = matches!(output, Output::Json | Output::Jsonl);
    if is_for_programs || exit::without_value(error).is_some() {
        let style = Style {
            output,
            ..Style::default()
        };
        let _ = Printer::new(style).trouble(&exit::misread(error));
    } else {
        let text = help::with_usage(&error.to_string(), &help::usage(tree(), args));
        // The text contains what the user typed.
        let _ = write!(std::io::stderr(), "{}", printable(&text));
    }
    Exit::Usage
}

fn tell(error: anyhow::Error, out: &mut Printer) -> Exit {
    let Some(trouble) = exit::trouble(error) else {
        return Exit::Done;
    };
    // If stderr is closed, the error cannot be reported anywhere.
    let _ = out.trouble(&trouble);
    trouble.exit
}

fn run(cli: Cli, matches: &ArgMatches, out: &mut Printer) -> anyhow::Result<Exit> {
    let Some(command) = cli.command else {
        out.line(WELCOME)?;
        return Ok(Exit::Done);
    };
    if !matches!(command, Command::Completions(_) | Command::Man(_)) {
        // Files written here contain keys, events and states, so only the owner may read them, whatever
        // the umask of the shell.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    }
    let place = cli.global.place(matches);
    match command {
        Command::Serve(serve) => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()?;
            runtime.block_on(serve::run(serve.config(place.data()?, matches)?, out))
        }
        Command::Demo(demo) => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()?;
            runtime.block_on(demo.run(out))
        }
        Command::Backup(_) | Command::Restore(_) | Command::Migrate(_) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let ended = runtime.block_on(copy(command, &place, out));
            // After Ctrl-C a read of stdin or a write to stdout may still wait for the other end.
            runtime.shutdown_background();
            ended
        }
        Command::Doctor(doctor) => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(doctor.run(&place, cli.global.settings(matches), matches, out))
        }
        Command::Completions(completions) => completions.run(out),
        Command::Man(man) => man.run(out),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(ask(command, &place, cli.global.limit(), out))
        }
    }
}

/// Runs a command that works on the files of a data directory, until it ends or Ctrl-C.
async fn copy(command: Command, place: &reach::Place, out: &mut Printer) -> anyhow::Result<Exit> {
    let stopped = out.ctrl_c();
    let copying = async {
        match command {
            Command::Backup(command) => command.run(place, out).await,
            Command::Restore(command) => command.run(place, out).await,
            Command::Migrate(command) => command.run(out).await,
            _ => Ok(Exit::Done),
        }
    };
    let copied = tokio::select! {
        copied = copying => Some(copied),
        () = stopped => None,
    };
    match copied {
        Some(copied) => copied,
        None => Ok(out.interrupted().map(|()| Exit::Interrupted)?),
    }
}

async fn ask(
    command: Command,
    place: &reach::Place,
    limit: Option<Duration>,
    out: &mut Printer,
) -> anyhow::Result<Exit> {
    let offline = match &command {
        Command::Audit(_) => Offline::Open,
        Command::Events(events) => events.offline(),
        Command::State(state) => state.offline(),
        Command::Hooks(hooks) => hooks.offline(),
        Command::Keys(keys) => keys.offline(),
        Command::Namespaces(namespaces) => namespaces.offline(),
        _ => Offline::Never,
    };
    if let Command::Lanes(lanes) = &command {
        lanes.check()?;
    }
    let reach = Reach::find(place, offline).await?;
    let stopped = out.ctrl_c();
    let ended = tokio::select! {
        ended = act(command, &reach, limit, out) => Some(ended),
        () = stopped => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => out
            .interrupted()
            .map(|()| Exit::Interrupted)
            .map_err(Into::into),
    };
    reach.close().await;
    ended
}

async fn act(
    command: Command,
    reach: &Reach,
    limit: Option<Duration>,
    out: &mut Printer,
) -> anyhow::Result<Exit> {
    match command {
        Command::Bench(command) => command.run(reach, out).await,
        Command::Send(command) => command.run(reach, limit, out).await,
        Command::Listen(command) => command.run(reach, out).await,
        Command::Status(command) => command.run(reach, out).await,
        Command::Top(command) => command.run(reach, out).await,
        Command::Hooks(command) => command.run(reach, out).await,
        Command::Events(command) => command.run(reach, out).await,
        Command::State(command) => command.run(reach, limit, out).await,
        Command::Streams(command) => command.run(reach, out).await,
        Command::Lanes(command) => command.run(reach, limit, out).await,
        Command::Why(command) => command.run(reach, out).await,
        Command::Audit(command) => command.run(reach, out).await,
        Command::Keys(command) => command.run(reach, out).await,
        Command::Namespaces(command) => command.run(reach, out).await,
        Command::Demo(_)
        | Command::Doctor(_)
        | Command::Serve(_)
        | Command::Backup(_)
        | Command::Restore(_)
        | Command::Migrate(_)
        | Command::Completions(_)
        | Command::Man(_) => Ok(Exit::Done),
    }
}

//! Facts, and the sentences that they make.

use super::house::HANGS;
use super::words::NAME_MAX;
use super::*;
use crate::api::{Outage, Storage};
use crate::domain::lane::LaneId;

fn id(index: u16) -> LaneId {
    LaneId {
        namespace: crate::domain::name::Name::default_namespace(),
        generation: 1,
        index,
    }
}

fn lane(index: u16) -> Lane {
    Lane {
        state: LaneState::Active,
        ..crate::admin::lanes::idle(&id(index))
    }
}

fn late(index: u16) -> Lane {
    Lane {
        flow_ms: Some(175_000),
        oldest_ms: Some(175_000),
        backlog: 1_000,
        backlog_flowing: 1_000,
        busy: Some(0.99),
        turn_wait_ms: Some(170_000),
        ..lane(index)
    }
}

fn cursor(condition: Condition, age_ms: u64) -> CursorLine {
    CursorLine {
        stream: "billing/acme".parse().unwrap(),
        handler: "reduce".parse().unwrap(),
        lane: 3,
        generation: 1,
        condition,
        position: Default::default(),
        head: crate::domain::position::Seq(61),
        behind: 61,
        oldest_ms: Some(age_ms),
        tries: 3,
        result: Some("at seq 912: TypeError in sum.js:12: x".to_owned()),
        retry_at: None,
        next: None,
        by_operator: false,
    }
}

fn first(facts: &Facts<'_>) -> (Rule, Class, String) {
    let worst = verdicts(facts).remove(0);
    assert!(worst.rule == Rule::Well || worst.more.is_some());
    let more = worst.more.unwrap_or_default();
    (worst.rule, worst.class, format!("{} | {more}", worst.text))
}

#[test]
fn nothing_wrong_is_said_with_figures() {
    let lanes = [lane(0)];
    let facts = Facts {
        lanes: &lanes,
        ..Facts::default()
    };
    let (rule, class, text) = first(&facts);
    assert_eq!((rule, class), (Rule::Well, Class::Ok));
    assert!(text.starts_with("nothing waits, busiest lane 0%"), "{text}");
}

#[test]
fn a_node_that_is_silent_goes_before_what_holds_up_only_itself() {
    let orphan = |index| Lane {
        state: LaneState::NoOwner,
        backlog: 800,
        ..lane(index)
    };
    let (lanes, cursors) = ([orphan(4), orphan(5)], [cursor(Condition::Held, 9_000)]);
    let silent = [Silent {
        node: "eu-2".to_owned(),
        silent: Duration::from_secs(12),
        left: Duration::from_secs(3),
    }];
    let heirs = ["eu-1".to_owned()];
    let facts = Facts {
        lanes: &lanes,
        cursors: &cursors,
        unheard: &silent,
        heirs: &heirs,
        at: Timestamp::from_millis(86_400_000),
        ..Facts::default()
    };
    let (rule, class, text) = first(&facts);
    assert_eq!((rule, class), (Rule::NoOwner, Class::Us));
    let said = "node eu-2 silent for 12s, since 23:59:48Z: lanes 4 and 5 have no owner | ";
    assert!(text.starts_with(said), "{text}");
    let more = "1,600 events wait. More lanes: no. Node eu-1 takes them over in 3.0s.";
    assert!(text.ends_with(more), "{text}");
    assert_eq!(verdicts(&facts).len(), 2);

    let alone = verdicts(&Facts {
        heirs: &[],
        ..facts
    })
    .remove(0);
    assert_eq!(alone.next.as_deref(), Some("hooklane serve"));
    assert!(
        alone
            .more
            .unwrap()
            .ends_with("No node is running: start one.")
    );
}

#[test]
fn a_node_that_is_silent_for_a_moment_has_its_lanes_still_and_they_stand() {
    let lanes = [Lane {
        node: Some("eu-2".to_owned()),
        backlog: 7,
        ..lane(4)
    }];
    let silent = [Silent {
        node: "eu-2".to_owned(),
        silent: Duration::from_secs(6),
        left: Duration::from_secs(9),
    }];
    let facts = Facts {
        lanes: &lanes,
        unheard: &silent,
        ..Facts::default()
    };
    let worst = verdicts(&facts).remove(0);
    assert_eq!(worst.severity, Severity::Unusual);
    assert!(
        worst.text.ends_with(": lane 4 stands still"),
        "{}",
        worst.text
    );
    assert_eq!(worst.events, 7);
}

fn unheard(node: &str, ms: u64) -> Silent {
    Silent {
        node: node.to_owned(),
        silent: Duration::from_millis(ms),
        left: Duration::from_millis(15_000 - ms),
    }
}

/// A late heartbeat is named where work waits for the node. After two beats the node may be dead.
#[test]
fn a_verdict_claims_no_more_of_a_node_than_its_last_heartbeat_proves() {
    let lanes = |backlog| {
        [Lane {
            node: Some("b".to_owned()),
            backlog,
            backlog_flowing: backlog,
            ..lane(4)
        }]
    };
    let heirs = ["a", "c"].map(str::to_owned);
    let said = |backlog, ms, uncounted| {
        let (lanes, unheard) = (lanes(backlog), [unheard("b", ms)]);
        let facts = Facts {
            lanes: &lanes,
            unheard: &unheard,
            uncounted,
            heirs: &heirs,
            at: Timestamp::from_millis(86_400_000),
            ..Facts::default()
        };
        first(&facts)
    };
    let (rule, _, text) = said(0, 1_600, false);
    assert_eq!(rule, Rule::Well);
    assert!(
        text.starts_with("nothing waits") && !text.contains("node b"),
        "{text}"
    );
    let (rule, _, text) = said(3, 1_600, false);
    assert_eq!(rule, Rule::Well);
    assert!(text.starts_with("3 events wait"), "{text}");
    assert!(text.contains(", node b silent for 1.6s"), "{text}");
    let (_, _, text) = said(3, 1_400, false);
    assert!(text.starts_with("3 events wait"), "{text}");
    assert!(
        !text.contains("node b"),
        "a healthy node may be seen so late: {text}"
    );
    let (_, _, text) = said(0, 1_600, true);
    assert!(
        text.contains(", node b silent for 1.6s"),
        "nothing was counted: {text}"
    );

    let (rule, class, text) = said(3, 2_400, false);
    assert_eq!((rule, class), (Rule::NoOwner, Class::UsPerhaps));
    let told = "node b silent for 2.4s, since 23:59:57Z: lane 4 may stand still | Accepting goes on, \
        3 events wait. More lanes: no. If it stays silent, nodes a and c take them over in 12s.";
    assert_eq!(text, told);
    let (_, class, text) = said(3, 5_000, true);
    assert_eq!(class, Class::Us);
    assert!(text.contains(": lane 4 stands still | "), "{text}");
    assert!(text.contains(", at least 3 events wait. "), "{text}");
    assert!(
        text.ends_with(" Nodes a and c take them over in 10s."),
        "{text}"
    );
}

#[test]
fn heirs_are_named_and_many_are_counted() {
    let heirs = ["a", "c", "d", "e"].map(str::to_owned);
    let unheard = [unheard("b", 9_000)];
    let told = |heirs| {
        let facts = Facts {
            heirs,
            unheard: &unheard,
            ..Facts::default()
        };
        first(&facts).2
    };
    assert!(told(&heirs[..3]).ends_with("Nodes a, c and d take them over in 6.0s."));
    assert!(told(&heirs).ends_with("The 4 live nodes take them over in 6.0s."));
}

#[test]
fn database_and_redis_say_which_since_when_and_what_to_type() {
    let at = Timestamp::from_millis(86_400_000);
    let facts = Facts {
        at,
        storage: Storage {
            error: Some("the database does not answer".to_owned()),
            error_since: Some(at.before(Duration::from_secs(5))),
            ..Storage::default()
        },
        hints: Some(Outage {
            why: "Redis at 10.0.0.7:6379 cannot be reached".to_owned(),
            since: at.before(Duration::from_secs(86_400)),
        }),
        ..Facts::default()
    };
    let all = verdicts(&facts);
    let told = |nth: usize| format!("{} | {}", all[nth].text, all[nth].next.as_deref().unwrap());
    assert_eq!(
        told(0),
        "storage: the database does not answer, since 23:59:55Z | hooklane doctor"
    );
    assert_eq!(
        told(1),
        "Redis at 10.0.0.7:6379 cannot be reached, since 01-01 00:00:00Z | hooklane doctor"
    );
    assert_eq!(all[1].severity, Severity::Unusual, "it holds up nothing");
}

#[test]
fn names_are_cut_in_their_middle_and_commands_have_them_whole_and_quoted() {
    let key = format!("y;touch PWNED;#{}end", "x".repeat(100));
    let hostile = CursorLine {
        stream: format!("pay/{key}").parse().unwrap(),
        ..cursor(Condition::Held, 9_000)
    };
    let cursors = [hostile];
    let facts = Facts {
        cursors: &cursors,
        ..Facts::default()
    };
    let worst = verdicts(&facts).remove(0);
    let name = worst.text.split(" -> ").next().unwrap();
    assert!(
        name.starts_with("pay/y;touch PW") && name.ends_with("xend"),
        "{name}"
    );
    assert!(name.chars().count() <= NAME_MAX);
    let why = format!("hooklane why 'pay/{key}'");
    assert_eq!(worst.next, Some(why));
}

#[test]
fn a_slow_disk_is_slow_against_its_own_past_only() {
    let storage = |p99, normal| Storage {
        accepting: true,
        commit_p99_ms: Some(p99),
        commit_normal_ms: Some(normal),
        ..Storage::default()
    };
    let of = |storage| {
        first(&Facts {
            storage,
            ..Facts::default()
        })
    };
    let (rule, _, text) = of(storage(2_100.0, 3.0));
    assert_eq!(rule, Rule::Storage);
    assert!(text.contains("commit p99 2.1s (normal 3ms)"), "{text}");
    assert_eq!(of(storage(2_100.0, 900.0)).0, Rule::Well);
    assert_eq!(
        of(storage(40.0, 3.0)).0,
        Rule::Well,
        "not slow enough to be felt"
    );
}

#[test]
fn what_is_late_is_told_apart_by_who_made_it_so() {
    let lanes = [late(2), late(3), lane(4)];
    let flood = [("billing".parse().unwrap(), 1_900.0, 101.0)];
    let slow = [("orders -> reduce".to_owned(), 0.048, Some(0.000_1))];
    let facts = |hooks, handlers| Facts {
        lanes: &lanes,
        hooks,
        handlers,
        lanes_that_help: Some(16),
        ..Facts::default()
    };
    let (rule, class, text) = first(&facts(&flood, &slow));
    assert_eq!((rule, class), (Rule::Flood, Class::Senders));
    assert!(text.starts_with("hook billing gets 1,900/s (normal 101/s)"));
    let (rule, class, text) = first(&facts(&[], &slow));
    assert_eq!((rule, class), (Rule::SlowHandler, Class::Code));
    assert!(text.starts_with("orders -> reduce takes 48ms an event (normal 0.10ms)"));
    let (rule, class, text) = first(&facts(&[], &[]));
    assert_eq!((rule, class), (Rule::Late, Class::Lanes));
    assert!(
        text.contains("lanes 2 and 3 are 90% busy or more"),
        "{text}"
    );
    assert!(text.contains("More lanes: yes, 16"), "{text}");
    // A reducer that was never quicker is named too.
    let always = [("orders -> reduce".to_owned(), 0.048, None)];
    let worst = verdicts(&facts(&[], &always)).remove(0);
    assert_eq!(worst.rule, Rule::Late);
    assert!(
        worst
            .more
            .unwrap()
            .contains("; orders -> reduce takes 48ms an event. ")
    );
    assert_eq!(worst.next.as_deref(), Some("hooklane lanes resize 16"));
}

#[test]
fn more_lanes_do_not_help_a_reducer_that_is_too_slow_for_them() {
    let lanes = [Lane {
        turn_wait_ms: Some(0),
        busy: Some(0.0),
        ..late(2)
    }];
    let flowing = CursorLine {
        stream: "orders/a1".parse().unwrap(),
        ..cursor(Condition::Flowing, 12_000)
    };
    let (cursors, beside) = ([flowing], ["orders -> reduce".to_owned()]);
    let slow = [("orders -> reduce".to_owned(), 0.048, Some(0.000_1))];
    let flood = [("orders".parse().unwrap(), 1_900.0, 101.0)];
    let crowded = [super::tests::late(2)];
    let of = |lanes, hooks, handlers| {
        let facts = Facts {
            lanes,
            cursors: &cursors,
            hooks,
            handlers,
            beside: &beside,
            lanes_that_help: Some(16),
            ..Facts::default()
        };
        verdicts(&facts).remove(0)
    };
    let no = "More lanes: no, orders -> reduce takes one turn at a time.";
    let code = of(&lanes, &[], &slow);
    assert_eq!(code.rule, Rule::SlowHandler);
    assert!(code.more.unwrap().ends_with(no));
    assert_eq!(code.next.as_deref(), Some("hooklane hooks show orders"));
    let senders = of(&lanes, &flood, &slow);
    assert_eq!((senders.rule, senders.lanes_that_help), (Rule::Flood, None));
    assert!(senders.more.unwrap().ends_with(no));
    let late = of(&lanes, &[], &[]);
    assert_eq!(late.rule, Rule::Late);
    assert!(late.more.unwrap().ends_with(no));
    // A quick handler that fills the lanes beside it is another matter.
    let quick = of(&crowded, &[], &[]);
    assert!(quick.more.unwrap().ends_with("More lanes: yes, 16."));
}

#[test]
fn a_finding_stands_since_the_same_moment_on_every_node() {
    let lanes = [late(2)];
    let facts = Facts {
        lanes: &lanes,
        ..Facts::default()
    };
    let at = Timestamp::from_millis;
    let (mut one, mut other) = (Since::default(), Since::default());
    let dated = |of: &mut Since, others: &[_], now| {
        let mut found = verdicts(&facts);
        of.date(&mut found, others, at(now));
        found[0].since
    };
    assert_eq!(dated(&mut one, &[], 1_000), Some(at(1_000)));
    let told: Vec<_> = one.told().map(|(of, at)| (of.clone(), at)).collect();
    assert_eq!(dated(&mut other, &told, 3_000), Some(at(1_000)));
    assert_eq!(
        dated(&mut other, &[], 4_000),
        Some(at(1_000)),
        "it keeps it"
    );
    let ahead = [(told[0].0.clone(), at(9_000))];
    assert_eq!(dated(&mut one, &ahead, 5_000), Some(at(1_000)));
}

#[test]
fn a_reason_that_only_sounds_like_an_operator_is_a_failure() {
    let failed = CursorLine {
        result: Some("held by the customs office".to_owned()),
        ..cursor(Condition::Held, 1_000)
    };
    let severity = severity(&lane(3), &[failed], &[], Thresholds::default());
    assert_eq!(severity, Severity::Trouble);
}

#[test]
fn more_lanes_never_help_when_no_lane_is_busy_or_one_stream_is_most_of_it() {
    let idle = Lane {
        busy: Some(0.1),
        ..late(2)
    };
    let lanes = [idle];
    let slow = [("orders -> reduce".to_owned(), 0.048, Some(0.000_1))];
    let facts = Facts {
        lanes: &lanes,
        handlers: &slow,
        lanes_that_help: Some(16),
        ..Facts::default()
    };
    assert!(first(&facts).2.contains("More lanes: no"));

    let lanes = [late(2)];
    let largest = [(id(2), "orders/9107".parse().unwrap(), 920)];
    let facts = Facts {
        lanes: &lanes,
        largest: &largest,
        lanes_that_help: Some(16),
        ..Facts::default()
    };
    let (rule, class, text) = first(&facts);
    assert_eq!((rule, class), (Rule::OneStream, Class::Order));
    assert!(
        text.starts_with("orders/9107 is 92% of what flows"),
        "{text}"
    );
    assert!(text.contains("More lanes: no"), "{text}");
}

#[test]
fn lanes_help_only_where_turns_wait_and_a_few_streams_are_told_from_many() {
    let lanes = [late(2), late(3)];
    let largest = |events| {
        let of = |lane, name: &str| (id(lane), name.parse().unwrap(), events);
        [of(2, "orders/a"), of(3, "orders/b")]
    };
    let few = largest(900);
    let facts = Facts {
        lanes: &lanes,
        largest: &few,
        lanes_that_help: Some(16),
        ..Facts::default()
    };
    let (rule, class, text) = first(&facts);
    assert_eq!((rule, class), (Rule::OneStream, Class::Order));
    assert!(
        text.starts_with("2 streams are 90% of what flows, orders/a the longest"),
        "{text}"
    );
    assert!(text.contains("More lanes: no, 2 streams"), "{text}");

    let many = largest(20);
    let facts = Facts {
        largest: &many,
        ..facts
    };
    let (rule, _, text) = first(&facts);
    assert_eq!(rule, Rule::Late);
    assert!(
        text.starts_with("turns wait 2m55 behind other cursors"),
        "{text}"
    );

    let lanes = [late(2), late(3)].map(|lane| Lane {
        turn_wait_ms: Some(0),
        ..lane
    });
    let facts = Facts {
        lanes: &lanes,
        ..facts
    };
    let (rule, class, text) = first(&facts);
    assert_eq!((rule, class), (Rule::Late, Class::UsPerhaps));
    assert!(
        text.contains("its turns wait 0ms") && text.contains("More lanes: no"),
        "{text}"
    );
}

#[test]
fn a_turn_that_hangs_names_its_cursor() {
    let (lanes, turn) = (
        [lane(2)],
        [(
            id(2),
            "orders/9107 -> reduce".to_owned(),
            Duration::from_secs(41),
        )],
    );
    let facts = Facts {
        lanes: &lanes,
        turns: &turn,
        ..Facts::default()
    };
    let (rule, _, text) = first(&facts);
    assert_eq!(rule, Rule::Turn);
    assert!(text.starts_with("lane 2: turn of orders/9107 -> reduce runs for 41s"));
}

#[test]
fn while_lanes_are_resized_a_finding_is_about_the_lane_of_its_own_generation() {
    let older = crate::api::Lane {
        id: LaneId {
            generation: 0,
            ..id(2)
        },
        held: 1,
        ..lane(2)
    };
    let lanes = [older, lane(2)];
    let turn = [(id(2), "orders/9107 -> reduce".to_owned(), HANGS)];
    let facts = Facts {
        lanes: &lanes,
        turns: &turn,
        ..Facts::default()
    };
    let worst = verdicts(&facts).remove(0);
    assert_eq!(
        (worst.rule, worst.lane),
        (Rule::Turn, "default-1-2".parse().ok())
    );
    let by_hand = CursorLine {
        lane: 2,
        by_operator: true,
        ..cursor(Condition::Held, 1_000)
    };
    let by_hand = [by_hand];
    let severity = |lane| severity(lane, &by_hand, &[], Thresholds::default());
    assert_eq!(
        severity(&lanes[0]),
        Severity::Trouble,
        "that is of the newer"
    );
}

#[test]
fn streams_of_one_handler_are_one_subject_and_the_oldest_is_named() {
    let other = CursorLine {
        stream: "billing/zeta".parse().unwrap(),
        ..cursor(Condition::Held, 20_000)
    };
    let elsewhere = CursorLine {
        stream: "ship/acme".parse().unwrap(),
        ..cursor(Condition::Held, 1_000)
    };
    let cursors = [cursor(Condition::Held, 9_000), other, elsewhere];
    let facts = Facts {
        cursors: &cursors,
        ..Facts::default()
    };
    let all = verdicts(&facts);
    assert_eq!(all.len(), 2);
    let (rule, _, text) = first(&facts);
    assert_eq!(rule, Rule::Reducer);
    assert!(
        text.starts_with("billing/zeta -> reduce held since 23:59:40Z: at seq 912"),
        "{text}"
    );
    assert!(text.contains("It and 1 more stream of billing hold up only their own 122 events"));
}

#[test]
fn streams_that_are_set_aside_are_all_counted_though_few_are_known_by_name() {
    let lanes = [Lane {
        set_aside: 60_000,
        backlog: 61_500,
        backlog_flowing: 1_000,
        kept: 200,
        ..lane(0)
    }];
    let cursors = [
        cursor(Condition::Held, 9_000),
        cursor(Condition::Held, 8_000),
    ];
    let facts = Facts {
        lanes: &lanes,
        cursors: &cursors,
        ..Facts::default()
    };
    let (_, _, text) = first(&facts);
    let said = "It and 59,999 more streams hold up only their own 60,300 events (98% of all).";
    assert!(text.contains(said), "{text}");
}

#[test]
fn no_text_from_outside_acts_on_a_terminal() {
    let mut hostile = cursor(Condition::Held, 9_000);
    hostile.result = Some("\u{1b}[2J boom".to_owned());
    let cursors = [hostile];
    let facts = Facts {
        cursors: &cursors,
        ..Facts::default()
    };
    assert!(!first(&facts).2.contains('\u{1b}'));
}

#[test]
fn a_lane_needs_somebody_when_a_cursor_of_it_is_held_and_is_unusual_when_stopped() {
    let severity =
        |lane: &Lane, cursors: &[CursorLine]| severity(lane, cursors, &[], Thresholds::default());
    assert_eq!(severity(&lane(3), &[]), Severity::Fine);
    let held = Lane { held: 1, ..lane(3) };
    assert_eq!(severity(&held, &[]), Severity::Trouble);
    let waiting = Lane {
        waiting: 1,
        ..lane(3)
    };
    let soon = [cursor(Condition::Waiting, 9_000)];
    assert_eq!(severity(&waiting, &soon), Severity::Unusual);
    let long = [cursor(Condition::Waiting, 900_000)];
    assert_eq!(severity(&waiting, &long), Severity::Trouble);
    let paused = Lane {
        state: LaneState::Paused,
        flow_ms: Some(900_000),
        ..lane(3)
    };
    assert_eq!(severity(&paused, &[]), Severity::Unusual);
}

#[test]
fn how_old_is_late_is_for_the_namespace_to_say() {
    let flows = |flow_ms| Lane {
        flow_ms: Some(flow_ms),
        backlog_flowing: 1,
        ..lane(3)
    };
    let of = |warn, crit| Thresholds::default().with(Some(warn), Some(crit)).unwrap();
    let severity = |flow_ms, thresholds| severity(&flows(flow_ms), &[], &[], thresholds);
    assert_eq!(severity(9_000, Thresholds::default()), Severity::Fine);
    assert_eq!(severity(11_000, Thresholds::default()), Severity::Unusual);
    assert_eq!(severity(61_000, Thresholds::default()), Severity::Trouble);
    assert_eq!(severity(9_000, of(5_000, 20_000)), Severity::Unusual);
    assert_eq!(severity(9_000, of(5_000, 8_000)), Severity::Trouble);
    assert_eq!(severity(61_000, of(300_000, 300_000)), Severity::Fine);

    let lanes = [flows(61_000)];
    let rule = |thresholds| {
        first(&Facts {
            lanes: &lanes,
            thresholds,
            ..Facts::default()
        })
        .0
    };
    assert_eq!(rule(Thresholds::default()), Rule::Late);
    assert_eq!(rule(of(300_000, 300_000)), Rule::Well, "all is well");
}

#[test]
fn lanes_that_are_stopped_in_one_act_are_one_subject() {
    let paused = |index, backlog| Lane {
        state: LaneState::Paused,
        by: Some("ana".to_owned()),
        reason: Some("deploy".to_owned()),
        since: Some(Timestamp::from_millis(86_390_000)),
        backlog,
        ..lane(index)
    };
    let told = |lanes: &[Lane]| {
        let all = verdicts(&Facts {
            lanes,
            at: Timestamp::from_millis(86_400_000),
            ..Facts::default()
        });
        let told = all.into_iter().map(|verdict| {
            let (more, next) = (verdict.more.unwrap(), verdict.next.unwrap());
            format!("{} | {more} | {next}", verdict.text)
        });
        told.collect::<Vec<_>>()
    };
    let some = told(&[paused(0, 3), lane(1), paused(2, 4)]);
    let one = "lanes 0 and 2 paused by ana since 23:59:50Z \"deploy\" | 7 events waiting. More lanes: no. | \
        hooklane lanes resume 0 2";
    assert_eq!(some, [one]);
    let all = told(&[paused(0, 3), paused(1, 4)]);
    assert!(all[0].ends_with("| hooklane lanes resume --all"), "{all:?}");
    let by_another = Lane {
        by: Some("bob".to_owned()),
        ..paused(1, 0)
    };
    assert_eq!(told(&[paused(0, 0), by_another]).len(), 2);
    let many: Vec<_> = (0..20)
        .map(|index| paused(index, 1))
        .chain([lane(20)])
        .collect();
    assert!(told(&many)[0].ends_with("| hooklane lanes list --state paused"));
}

#[test]
fn a_cursor_that_waits_in_something_stopped_has_no_next_try() {
    let waiting = [CursorLine {
        retry_at: Some(Timestamp::from_millis(5_000)),
        ..cursor(Condition::Waiting, 9_000)
    }];
    let text = |state, paused: &[(crate::domain::name::Name, String)], at| {
        let lanes = [Lane { state, ..lane(3) }];
        let facts = Facts {
            lanes: &lanes,
            cursors: &waiting,
            paused,
            at: Timestamp::from_millis(at),
            ..Facts::default()
        };
        verdicts(&facts).remove(0).text
    };
    let (active, stopped) = (LaneState::Active, LaneState::Paused);
    assert!(text(active, &[], 1_000).contains(", next try in 4.0s: "));
    assert!(text(active, &[], 6_000).contains(", next try now: "));
    assert!(text(stopped, &[], 6_000).contains(", no try while lane 3 is paused: "));
    let paused = [("billing".parse().unwrap(), "hook billing paused".to_owned())];
    assert!(text(active, &paused, 6_000).contains(", no try while hook billing is paused: "));
}

#[test]
fn events_that_wait_are_never_called_nothing() {
    let lanes = [Lane {
        backlog: 18,
        backlog_flowing: 18,
        ..lane(4)
    }];
    let (.., text) = first(&Facts {
        lanes: &lanes,
        ..Facts::default()
    });
    assert!(
        text.starts_with("18 events wait, busiest lane 0%"),
        "{text}"
    );
}

#[test]
fn a_disk_that_fills_is_named_with_its_node() {
    let facts = Facts {
        full: &[("eu-1".to_owned(), 812_000_000)],
        ..Facts::default()
    };
    let (rule, class, text) = first(&facts);
    assert_eq!((rule, class), (Rule::Storage, Class::Us));
    assert!(text.starts_with("disk: node eu-1 has only 812 MB left | "));
    assert_eq!(verdicts(&facts)[0].finding, "disk eu-1");
}

#[test]
fn streams_that_are_held_are_another_finding_than_those_that_wait() {
    let cursors = [
        cursor(Condition::Waiting, 9_000),
        cursor(Condition::Held, 8_000),
    ];
    let facts = Facts {
        cursors: &cursors,
        ..Facts::default()
    };
    let found: Vec<_> = verdicts(&facts).into_iter().map(|v| v.finding).collect();
    assert_eq!(
        found,
        ["billing -> reduce waiting", "billing -> reduce held"]
    );
}

use super::*;
use crate::domain::event::StreamId;
use crate::domain::hook::HandlerId;

fn cursor(stream: i64) -> CursorId {
    CursorId {
        stream: StreamId(stream),
        handler: HandlerId(1),
    }
}

fn hint(stream: i64, recheck: lanes::Recheck) -> Hint {
    Hint {
        cursor: cursor(stream),
        oldest: Timestamp::from_millis(stream),
        newest: Timestamp::from_millis(stream),
        backlog: Backlog::More(1),
        recheck,
    }
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn rest(events: u64) -> Rest {
    Rest {
        oldest: at(7),
        events,
    }
}

fn lane_with(streams: &[i64]) -> Lane {
    let mut lane = Lane::default();
    lane.hinted(streams.iter().map(|s| hint(*s, lanes::Recheck::No)));
    lane
}

fn batch(lane: &mut Lane, max: usize, now: i64) -> Vec<i64> {
    let cursors = lane.next_batch(max, at(now), |_| false);
    cursors.iter().map(|cursor| cursor.stream.0).collect()
}

#[test]
fn a_cursor_with_more_to_do_goes_behind_the_others() {
    let mut lane = lane_with(&[1, 2, 3]);
    assert_eq!(batch(&mut lane, 1, 0), [1]);
    lane.turned(cursor(1), Outcome::More(rest(5)));
    assert_eq!(batch(&mut lane, 9, 0), [2, 3, 1]);
}

fn of(handler: i64, stream: i64) -> Hint {
    Hint {
        cursor: CursorId {
            stream: StreamId(stream),
            handler: HandlerId(handler),
        },
        ..hint(stream, lanes::Recheck::No)
    }
}

#[test]
fn handlers_take_turns_however_many_cursors_each_has() {
    let mut lane = Lane::default();
    lane.hinted((1..=50).map(|stream| of(1, stream)));
    lane.hinted([of(2, 51), of(2, 52), of(3, 53)]);
    assert_eq!(batch(&mut lane, 6, 0), [1, 51, 53, 2, 52, 3]);
}

#[test]
fn a_handler_that_is_left_out_stays_ready_and_nobody_waits_for_it() {
    let mut lane = Lane::default();
    lane.hinted([of(1, 1), of(2, 2), of(1, 3)]);
    let slow = |handler| handler == HandlerId(1);
    let taken = lane.next_batch(9, at(0), slow);
    assert_eq!(taken, [of(2, 2).cursor]);
    assert!(lane.is_idle(slow) && lane.next_batch(9, at(0), slow).is_empty());
    assert_eq!(lane.turn_wait(at(90_000)), Some(Duration::ZERO));
    assert_eq!(
        lane.ready_of(&[HandlerId(1), HandlerId(2)], at(0)),
        [HandlerId(1)]
    );
    assert_eq!(lane.next_of(HandlerId(1), 1, at(0)), [of(1, 1).cursor]);
    assert_eq!(batch(&mut lane, 9, 0), [3], "it is left out no more");
}

#[test]
fn first_tries_come_before_repeats_but_for_every_fourth() {
    let mut lane = lane_with(&[1, 2]);
    assert_eq!(batch(&mut lane, 9, 0), [1, 2]);
    for stream in [1, 2] {
        let waiting = Parked::Waiting(at(5));
        lane.turned(cursor(stream), Outcome::Parked(waiting, rest(1)));
    }
    lane.hinted((3..=9).map(|stream| hint(stream, lanes::Recheck::No)));
    let mut order = Vec::new();
    for _ in 0..9 {
        order.extend(batch(&mut lane, 1, 9));
    }
    assert_eq!(order, [3, 4, 5, 1, 6, 7, 8, 2, 9]);
}

#[test]
fn only_what_came_since_the_last_batch_is_given_up_as_new() {
    let mut lane = lane_with(&[1, 2]);
    assert_eq!(batch(&mut lane, 1, 0), [1]);
    lane.hinted([3, 4].map(|stream| hint(stream, lanes::Recheck::No)));
    let given_up = lane.give_up_new(|cursor| cursor.stream.0 != 4);
    let given_up: Vec<_> = given_up.iter().map(|hint| hint.cursor.stream.0).collect();
    assert_eq!(given_up, [3]);
    assert!(lane.give_up_new(|_| true).is_empty(), "looked at already");
    assert_eq!(batch(&mut lane, 9, 0), [2, 4]);
}

#[test]
fn a_cursor_gathers_from_its_first_turn_until_one_that_folds() {
    let seconds = Duration::from_secs;
    let mut lane = lane_with(&[1]);
    let gathers = |until| Outcome::Parked(Parked::Gathering(at(until)), rest(1));
    assert_eq!(batch(&mut lane, 9, 5_000), [1]);
    assert_eq!(lane.gathered(&[cursor(1)], at(5_000)), [seconds(0)]);
    lane.turned(cursor(1), gathers(6_000));
    assert_eq!(lane.gathers_until(cursor(1)), Some(at(6_000)));
    assert_eq!(batch(&mut lane, 9, 6_000), [1]);
    assert_eq!(lane.gathered(&[cursor(1)], at(6_000)), [seconds(1)]);
    lane.turned(cursor(1), Outcome::More(rest(1)));
    assert_eq!(lane.gathers_until(cursor(1)), None);
    assert_eq!(batch(&mut lane, 9, 9_000), [1]);
    assert_eq!(lane.gathered(&[cursor(1)], at(9_000)), [seconds(0)]);
}

#[test]
fn a_turn_waits_as_long_as_the_last_of_those_who_are_ready() {
    let seconds = |n| Some(Duration::from_secs(n));
    let mut lane = lane_with(&[1, 2, 3]);
    assert_eq!(lane.turn_wait(at(0)), None);
    assert_eq!(batch(&mut lane, 1, 0), [1]);
    assert_eq!(lane.turn_wait(at(2_000)), seconds(2), "3 waits still");
    lane.turned(cursor(1), Outcome::More(rest(5)));
    assert_eq!(batch(&mut lane, 1, 3_000), [2]);
    lane.turned(cursor(2), Outcome::Done);
    assert_eq!(batch(&mut lane, 1, 6_000), [3]);
    assert_eq!(lane.turn_wait(at(6_000)), seconds(6));
    lane.turned(cursor(3), Outcome::Done);
    assert_eq!(batch(&mut lane, 9, 7_000), [1]);
    lane.turned(cursor(1), Outcome::More(rest(5)));
    assert_eq!(batch(&mut lane, 9, 8_000), [1]);
    assert_eq!(
        lane.turn_wait(at(9_000)),
        seconds(0),
        "alone, it waits for nobody"
    );
}

#[test]
fn in_a_turn_with_others_a_cursor_waits_until_it_has_ended() {
    let seconds = |n| Some(Duration::from_secs(n));
    let mut lane = lane_with(&[1, 2]);
    assert_eq!(batch(&mut lane, 9, 0), [1, 2]);
    assert_eq!(lane.turn_wait(at(40_000)), seconds(40), "it runs still");
    lane.turned(cursor(1), Outcome::More(rest(5)));
    lane.turned(cursor(2), Outcome::More(rest(5)));
    assert_eq!(batch(&mut lane, 9, 50_000), [1, 2]);
    assert_eq!(lane.turn_wait(at(51_000)), seconds(50));
    lane.turned(cursor(1), Outcome::Done);
    lane.turned(cursor(2), Outcome::Done);
    assert!(batch(&mut lane, 9, 52_000).is_empty());
    assert!(batch(&mut lane, 9, 53_000).is_empty());
    assert_eq!(lane.turn_wait(at(53_000)), seconds(0));
}

#[test]
fn a_hint_while_running_is_not_forgotten() {
    let mut lane = lane_with(&[1]);
    assert_eq!(batch(&mut lane, 9, 0), [1]);
    lane.hinted([hint(1, lanes::Recheck::No)]);
    assert!(batch(&mut lane, 9, 0).is_empty(), "one turn at a time");
    lane.turned(cursor(1), Outcome::Done);
    assert_eq!(batch(&mut lane, 9, 0), [1]);
    lane.turned(cursor(1), Outcome::Done);
    assert_eq!(lane.survey(), Survey::default());
}

#[test]
fn what_a_running_turn_has_taken_waits_until_the_turn_says_what_became_of_it() {
    let mut lane = lane_with(&[1]);
    assert_eq!(batch(&mut lane, 9, 0), [1]);
    lane.hinted([hint(1, lanes::Recheck::No)]);
    assert_eq!(lane.survey().backlog_flowing, 2);
    assert_eq!(lane.lines(9, 9)[0].behind, 2);
    lane.turned(cursor(1), Outcome::More(rest(1)));
    assert_eq!(lane.survey().backlog_flowing, 1);
}

#[test]
fn what_waits_is_as_old_as_its_oldest_event_whatever_has_been_done_or_could_not_be() {
    let came_at = |millis| Hint {
        oldest: at(millis),
        newest: at(millis),
        ..hint(1, lanes::Recheck::No)
    };
    let mut lane = Lane::default();
    lane.hinted([came_at(10)]);
    for next in [20, 30, 40] {
        assert_eq!(batch(&mut lane, 9, 0), [1]);
        lane.hinted([came_at(next)]);
        assert_eq!(lane.survey().oldest_flowing, Some(at(next - 10)));
        lane.turned(cursor(1), Outcome::Done);
        assert_eq!(lane.survey().oldest_flowing, Some(at(next)), "more came");
    }
    assert_eq!(batch(&mut lane, 9, 0), [1]);
    lane.hinted([came_at(50)]);
    lane.not_turned(cursor(1));
    let survey = lane.survey();
    assert_eq!((survey.oldest, survey.backlog), (Some(at(40)), 2));
    assert_eq!(batch(&mut lane, 9, 0), [1], "it is its turn again");
}

#[test]
fn of_what_waits_for_a_cursor_it_is_known_when_the_oldest_came_and_when_the_newest() {
    let came_at = |millis| Hint {
        oldest: at(millis),
        newest: at(millis),
        ..hint(1, lanes::Recheck::No)
    };
    let mut lane = Lane::default();
    lane.hinted([10, 20, 30].map(came_at));
    assert_eq!(batch(&mut lane, 9, 0), [1]);
    let rest = Rest {
        oldest: at(20),
        events: 2,
    };
    lane.turned(cursor(1), Outcome::Parked(Parked::Held, rest));
    lane.hinted([came_at(60)]);
    let span = Span {
        oldest: at(20),
        newest: at(60),
        events: 3,
    };
    assert_eq!(lane.spans(), [span]);
}

#[test]
fn a_cursor_aside_leaves_its_lane_free_and_returns_in_time_or_when_let_go() {
    let mut lane = lane_with(&[1, 2]);
    assert_eq!(batch(&mut lane, 9, 0), [1, 2]);
    lane.turned(
        cursor(1),
        Outcome::Parked(Parked::Waiting(at(100)), rest(1)),
    );
    lane.turned(cursor(2), Outcome::Parked(Parked::Held, rest(1)));
    lane.hinted([
        hint(1, lanes::Recheck::No),
        hint(2, lanes::Recheck::No),
        hint(3, lanes::Recheck::No),
    ]);
    assert_eq!(batch(&mut lane, 9, 99), [3]);
    lane.turned(cursor(3), Outcome::Done);
    let survey = lane.survey();
    assert_eq!((survey.waiting, survey.held, survey.backlog), (1, 1, 4));
    assert_eq!(survey.oldest_flowing, None);

    assert_eq!(lane.next_due(), Some(at(100)));
    assert_eq!(batch(&mut lane, 9, 100), [1]);
    lane.hinted([hint(2, lanes::Recheck::Yes)]);
    assert_eq!(batch(&mut lane, 9, 100), [2]);
    assert_eq!(lane.next_due(), None);
}

#[test]
fn of_cursors_that_gather_events_it_is_known_which_goes_on_last() {
    let mut lane = lane_with(&[1, 2, 3]);
    assert_eq!(batch(&mut lane, 9, 0), [1, 2, 3]);
    for (stream, until) in [(1, 50), (2, 70), (3, 60)] {
        let aside = Parked::Gathering(at(until));
        lane.turned(cursor(stream), Outcome::Parked(aside, rest(1)));
    }
    let survey = lane.survey();
    assert_eq!(survey.gathering, 3);
    assert_eq!(survey.gathers_longest, Some((at(70), cursor(2))));
    assert_eq!(survey.backlog_flowing, 3);
}

#[test]
fn what_an_operator_had_stopped_goes_on_when_he_lets_it_go_whatever_it_waited_for() {
    let mut lane = lane_with(&[1, 2, 3]);
    assert_eq!(batch(&mut lane, 2, 0), [1, 2]);
    lane.turned(cursor(1), Outcome::Parked(Parked::Kept, rest(1)));
    lane.turned(cursor(2), Outcome::Parked(Parked::Held, rest(1)));
    lane.let_kept_go();
    assert_eq!(batch(&mut lane, 9, 0), [3, 1]);
}

#[test]
fn being_let_go_during_the_turn_that_sets_it_aside_counts() {
    let mut lane = lane_with(&[1]);
    assert_eq!(batch(&mut lane, 9, 0), [1]);
    lane.hinted([hint(1, lanes::Recheck::Yes), hint(1, lanes::Recheck::No)]);
    lane.turned(cursor(1), Outcome::Parked(Parked::Held, rest(1)));
    assert_eq!(batch(&mut lane, 9, 0), [1]);
}

#[test]
fn being_let_go_in_a_lane_that_gives_the_cursor_up_counts_where_it_is_set_aside() {
    let mut now = lane_with(&[1, 2]);
    assert_eq!(batch(&mut now, 9, 0), [1, 2]);
    now.turned(cursor(1), Outcome::Parked(Parked::Held, rest(1)));
    now.turned(cursor(2), Outcome::Parked(Parked::Held, rest(1)));

    let mut before = Lane::default();
    before.hinted([hint(1, lanes::Recheck::Yes), hint(2, lanes::Recheck::Yes)]);
    now.hinted(before.give_up_those(|stranger| stranger == cursor(1)));
    assert_eq!(batch(&mut now, 9, 0), [1]);
    now.hinted(before.give_up());
    assert_eq!(batch(&mut now, 9, 0), [2]);
}

#[test]
fn what_is_wiped_is_forgotten_but_for_the_turn_that_runs() {
    let mut lane = lane_with(&[1, 2, 3]);
    assert_eq!(batch(&mut lane, 2, 0), [1, 2]);
    lane.turned(cursor(2), Outcome::Parked(Parked::Waiting(at(5)), rest(1)));
    let mut known = lane.wipe();
    known.sort_unstable();
    assert_eq!(known, [cursor(1), cursor(2), cursor(3)]);
    assert!(batch(&mut lane, 9, 9).is_empty(), "a turn still runs");
    assert_eq!(lane.next_due(), None);
    lane.hinted([hint(1, lanes::Recheck::No)]);
    lane.turned(cursor(1), Outcome::Done);
    assert_eq!(batch(&mut lane, 9, 9), [1], "its hint may have been wiped");
}

//! Mutants: rules that are broken on purpose.

/// A rule that is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    None,
    HintBeforeCommit,
    NoCompare,
    NoSealWait,
    SealUnderTurns,
    NoSweepOnTake,
    PushAnyGeneration,
    LossIgnored,
    ActsUnderTurns,
    MoveBeforeAllAct,
    LateMover,
    StopsCrossResizes,
    PlacedByOldNews,
    LeavesUnderTurns,
    SwapKeepsEra,
    SwapWhereStopped,
    NoSweepForTheDead,
    BusyIgnored,
    MovesBeforeTheAnswer,
    NoEpoch,
    FlightsUnmarked,
    ActsUnderFlights,
    MovesWithoutEpoch,
}

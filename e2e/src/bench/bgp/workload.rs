//! What is measured, and what ours should reach.

use super::subject::Subject;

/// A workload of `bgpload`.
#[derive(Debug)]
pub(super) struct Workload {
    /// As `bgpload` knows it.
    pub(super) name: &'static str,
    pub(super) phases: &'static [Phase],
    /// Options, if not of the usual size.
    sizes: &'static [&'static str],
    /// For GoBGP, which would take minutes: its memory and time are for fewer routes or peers.
    fewer: Option<Fewer>,
}

/// A smaller size of a workload, and how to say so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fewer {
    sizes: &'static [&'static str],
    pub(super) title: &'static str,
}

/// A part with clocks of its own.
#[derive(Debug)]
pub(super) struct Phase {
    /// As `bgpload` knows it.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) aims: &'static [(Figure, Aim)],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    Wall,
    Cpu,
    BytesPerRoute,
    P50,
    P99,
    GeneratorCpu,
}

/// What a figure of ours should be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Aim {
    /// At most so many times BIRD's.
    TimesBird(f64),
    /// Less, in the figure's unit.
    Below(f64),
}

use self::Aim::{Below, TimesBird};
use self::Figure::{BytesPerRoute, Cpu, P50, P99, Wall};

const TABLE: Option<Fewer> =
    Some(Fewer { sizes: &["--routes", "50000"], title: "50,000 routes only" });

pub(super) const ONE: Workload = Workload {
    name: "one",
    phases: &[Phase {
        name: "announce",
        title: "1,000,000 routes from one eBGP peer, 300 per UPDATE, received and selected",
        aims: &[(Cpu, TimesBird(0.7)), (BytesPerRoute, Below(64.0))],
    }],
    sizes: &[],
    fewer: TABLE,
};

pub(super) const FORWARD: Workload = Workload {
    name: "fwd",
    phases: &[Phase {
        name: "announce",
        title: "1,000,000 routes, until a second AS has all",
        aims: &[(Cpu, TimesBird(0.6))],
    }],
    sizes: &[],
    fewer: TABLE,
};

pub(super) const INTERNET: Workload = Workload {
    name: "dfz",
    phases: &[Phase {
        name: "announce",
        title: "870,000 Internet-like routes, 62,000 attribute sets, until a second AS has all",
        aims: &[(Cpu, TimesBird(0.6)), (BytesPerRoute, Below(80.0))],
    }],
    sizes: &[],
    fewer: TABLE,
};

pub(super) const PROBE: Workload = Workload {
    name: "probe",
    phases: &[Phase {
        name: "probe",
        title: "one more route through a table of 1,000,000, until a second AS has it",
        aims: &[(P50, TimesBird(1.0)), (P99, TimesBird(1.0))],
    }],
    sizes: &[],
    fewer: TABLE,
};

pub(super) const REFLECT: Workload = Workload {
    name: "rr",
    phases: &[Phase {
        name: "announce",
        title: "reflector, 200 clients x 64 routes, until all have all",
        aims: &[(Cpu, TimesBird(0.25)), (Wall, TimesBird(0.3))],
    }],
    sizes: &[],
    fewer: Some(Fewer { sizes: &["--peers", "30"], title: "30 clients only" }),
};

pub(super) const FAN: Workload = Workload {
    name: "fan",
    phases: &[Phase {
        name: "announce",
        title: "100,000 routes to 50 eBGP peers of one policy",
        aims: &[(Cpu, TimesBird(0.15))],
    }],
    sizes: &[],
    fewer: Some(Fewer { sizes: &["--routes", "2000"], title: "2,000 routes only" }),
};

pub(super) const HERD: Workload = Workload {
    name: "herd",
    phases: &[Phase {
        name: "up",
        title: "200 peers connecting at once, until all are up",
        aims: &[(Wall, Below(0.1))],
    }],
    // BIRD's backlog of 8 leaves some of them to the kernel's retransmissions for two minutes.
    sizes: &["--within", "30"],
    fewer: None,
};

pub(super) const WITHDRAW: Workload = Workload {
    name: "withdraw",
    phases: &[
        Phase {
            name: "withdraw",
            title: "1,000,000 routes withdrawn, until a second AS has none",
            aims: &[(Wall, TimesBird(1.0))],
        },
        Phase {
            name: "lose",
            title: "a peer with 1,000,000 routes lost, until a second AS has none",
            aims: &[(Wall, TimesBird(1.0))],
        },
    ],
    sizes: &[],
    fewer: TABLE,
};

impl Workload {
    /// The options that make it as large as it is for a subject.
    pub(super) fn sizes(&self, subject: Subject) -> &'static [&'static str] {
        self.fewer(subject).map_or(self.sizes, |fewer| fewer.sizes)
    }

    /// The smaller size, if the subject has one.
    pub(super) fn fewer(&self, subject: Subject) -> Option<Fewer> {
        self.fewer.filter(|_| subject == Subject::Gobgp)
    }
}

impl Figure {
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Wall => "wall",
            Self::Cpu => "CPU",
            Self::BytesPerRoute => "memory per route",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::GeneratorCpu => "generator's CPU",
        }
    }

    pub(super) fn unit(self) -> &'static str {
        match self {
            Self::Wall | Self::Cpu | Self::GeneratorCpu => "s",
            Self::BytesPerRoute => "B",
            Self::P50 | Self::P99 => "ms",
        }
    }
}

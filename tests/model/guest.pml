/* SPDX-License-Identifier: Apache-2.0
 *
 * One guest, two nodes that may run it and a witness: lease, keeper, watchdog, gate, quarantine,
 * fencing (T_wait and agent), return with the same or a new boot, hand-off by the log. As the code
 * does it: hamgr/core/state_*.c (owner record), reconcile*.c (what a node does about it), fence/keeper.c,
 * hamgr/hv/gate_fsm.c, fence/fence_fsm.c.
 *
 * The log is one sequence that commits in one step (log.pml is about that), leases and evidence count
 * from one acknowledgement (lease.pml is about whose). Each node acts on its own, maybe outdated,
 * applied copy of the record. FAULTS faults happen at any time: power cut, isolation, a hung or a
 * restarted hamgrd; each heals at any time or never. The witness stays: a quorum is it and one more.
 *
 * MIG adds migrations with ABORT, SWITCH, ARRIVED, REVERT.
 */
#ifndef FAULTS
#define FAULTS 1
#endif
#ifndef EPOCHS
#define EPOCHS 2                /* ASSIGNs and MIGRATEs after the first start */
#endif
#define ME BIT(i)
#define O (1 - i)
#define BIT(n) (1 << (n))

#define L 1
#define W 1
#define D 1
#define DRIFT 1
#define LEASE (L + DRIFT)
#ifdef SHORTWAIT
#define T_WAIT (L + 2 * DRIFT)
#else
#define T_WAIT (L + W + 2 * DRIFT + D)
#endif
#define OLD (T_WAIT - DRIFT)

/* Domain at a node. */
#define GONE 0
#define PAUSED 1
#define RUNNING 2
#define SUSPENDED 3
/* The record's phase. */
#define FREE 0
#define ASSIGNED 1
#define RUNS 2
#define MIGRATING 3
#define SWITCHED 4
/* A node's status. */
#define MEMBER 0
#define UNCLEAN 1
#define FENCED 2

/* The committed state. ep: label of the owner's copy, high: highest label ever reserved, sep: label
 * of the source's copy while SWITCHED (0: it is gone). */
byte phase = RUNS, own, ep = 1, high = 1, sep;
byte status[2], mem = 3;
byte pend[2];                   /* a FENCED under way: 1 of this incarnation, 2 of an earlier one */
/* The hosts. */
bit up[2] = 1, link[2] = 1, hung[2];
bit newboot[2];                 /* has booted since it was last a member */
byte left[2];                   /* out of its view: 1 lease ended, 2 a new process, until a new OPEN */
byte lease[2] = LEASE, wd[2] = W, age[2];
bit quiet[2];                   /* the keeper holds a fresh proof */
byte dom[2], lab[2];
bit io[2];                      /* guest I/O outstanding in this dom0, or in flight from a dead host */
bit dead_io[2];
bit req[2];                     /* a RUN on its way to the gate */
/* The applied copies. */
bit is_open[2] = 1;
byte aphase[2] = RUNS, aown[2], aep[2] = 1, asep[2];
byte faults;
#ifdef MIG
bit saved, done, handover, is_never_run, reverting; /* of the present ticket */
bit said_revert[2];             /* this hamgrd has proposed REVERT and not heard of its fate */
bit lost[2];                    /* this hamgrd does not know what became of its copy */
#endif

#define ALIVE(n) (up[n] && link[n] && !hung[n])
#define IN_VIEW(n) ((mem & BIT(n)) && ALIVE(n) && left[n] == 0)
#define CHECK \
    assert(!(dom[0] == RUNNING && dom[1] == RUNNING)); \
    assert(!(dom[0] == RUNNING && io[1]) && !(dom[1] == RUNNING && io[0]))

/* hamgrd of this node sees an open view and has a lease, as far as it knows. */
#ifdef REVERTRUNS
#define IS_REVERTING (false)
#elif defined(MIG)
#define IS_REVERTING (said_revert[i])
#else
#define IS_REVERTING (false)
#endif
#define CAN_RUN (up[i] && !hung[i] && is_open[i] && GATE(i) && !IS_REVERTING)
#define CAN_ACT (up[i] && !hung[i] && is_open[i])
/* The applied copy gives this node the copy it has. */
#define IS_MINE (aphase[i] != FREE && aown[i] == i && aep[i] == lab[i])
#ifdef MIG
#define IS_KEPT (aphase[i] == SWITCHED && aown[i] != i && asep[i] == lab[i])
#define IS_COMING (aphase[i] == MIGRATING && aown[i] != i && lab[i] == asep[i])
#else
#define IS_KEPT (false)
#define IS_COMING (false)
#endif

inline die(n) {
    up[n] = 0; dom[n] = GONE; lab[n] = 0; req[n] = 0; quiet[n] = 0; lease[n] = 0; wd[n] = 0;
    is_open[n] = 0; hung[n] = 0; left[n] = 2;
    aphase[n] = FREE; aown[n] = 0; aep[n] = 0; asep[n] = 0;
    dead_io[n] = io[n]
#ifdef MIG
    ;
    said_revert[n] = 0
#endif
}

/* FENCED{n} takes effect, or n came back with another boot. */
inline release(n) {
    if
    :: phase != FREE && own == n -> phase = FREE; sep = 0
#ifdef MIG
    :: phase == MIGRATING && own != n -> phase = RUNS; sep = 0
    :: phase == SWITCHED && own != n -> sep = 0
#endif
    :: else
    fi
#ifdef MIG
    ;
    if
    :: phase != MIGRATING -> done = 0; handover = 0
    :: else
    fi
#endif
}

inline join(n) {
    if
    :: !(mem & BIT(n)) || left[n] == 2 ->
        /* A new incarnation. */
        pend[n] = (pend[n] > 0 -> 2 : 0);
#ifdef MIG
        reverting = (own == n -> 0 : reverting);
#endif
        if
        :: newboot[n] -> release(n)
        :: else
        fi;
        newboot[n] = 0
    :: else
    fi;
    status[n] = MEMBER;
    left[n] = 0;
    is_open[n] = 0
}

inline absent(n) {
    if
    :: status[n] == MEMBER -> status[n] = UNCLEAN
    :: else
    fi
}

/* An OPEN with whoever is there. */
#define VIEW(set) \
    d_step { ((set) & 1) == (ALIVE(0) -> 1 : 0) && ((set) & 2) == (ALIVE(1) -> 2 : 0) && \
             (mem != (set) || (left[0] && ((set) & 1)) || (left[1] && ((set) & 2))) -> \
        if :: (set) & 1 -> \
            if :: !(mem & 1) || left[0] -> join(0) :: else fi \
           :: else -> absent(0) fi; \
        if :: (set) & 2 -> \
            if :: !(mem & 2) || left[1] -> join(1) :: else fi \
           :: else -> absent(1) fi; \
        mem = set; \
        skip }

inline apply(n) {
    is_open[n] = 1; aphase[n] = phase; aown[n] = own; aep[n] = ep;
#ifdef MIG
    asep[n] = (phase == MIGRATING -> high : sep);
    said_revert[n] = (own == n && reverting);
    if
    :: phase != MIGRATING && phase != SWITCHED -> lost[n] = 0
    :: else
    fi
#endif
}

/* Members acknowledge each other's heartbeats; who has a lease keeps it, who has none gets one when
 * it has applied the OPEN that names it. */
#ifdef ACKEVICTED
#define IS_RENEWED(n) (ALIVE(n) && (lease[n] > 0 || (IN_VIEW(n) && is_open[n])))
#else
#define IS_RENEWED(n) (IN_VIEW(n) && (lease[n] > 0 || is_open[n]))
#endif
#ifdef QLATE
#define LEAVE_QUARANTINE(n) skip
#define GATE(n) (lease[n] > 0)
#else
#define LEAVE_QUARANTINE(n) quiet[n] = 0 /* before the gate opens */
#define GATE(n) (lease[n] > 0 && !quiet[n])
#endif

/* is_lost: the acknowledgement was sent and did not come back. */
inline tick1(n, is_lost) {
    if
    :: dead_io[n] -> dead_io[n] = 0; io[n] = 0 /* D after its death */
    :: else
    fi;
    age[n] = (age[n] < OLD -> age[n] + 1 : OLD);
    if
    :: up[n] ->
        if
        :: IS_RENEWED(n) && is_lost -> age[n] = 0
        :: IS_RENEWED(n) && !is_lost -> lease[n] = LEASE; age[n] = (IN_VIEW(n) -> 0 : age[n]); LEAVE_QUARANTINE(n)
        :: else -> skip
        fi;
        if
        :: lease[n] > 0 && (!IS_RENEWED(n) || is_lost) ->
            lease[n]--;
            if
            :: lease[n] == 0 -> is_open[n] = 0; left[n] = (left[n] == 2 -> 2 : 1)
            :: else
            fi
        :: else
        fi;
        if
        :: lease[n] > 0 || quiet[n] -> wd[n] = W /* petted */
        :: else ->
            if
            :: wd[n] == 0 && (dom[n] != GONE || io[n]) -> die(n) /* the watchdog */
            :: wd[n] > 0 -> wd[n]--
            :: else
            fi
        fi
    :: else
    fi
}

#ifdef NODRAIN
#define IS_SILENT (true)        /* paused is taken for silent */
#else
#define IS_SILENT (!io[i])
#endif
#ifdef NODESTCHECK              /* the end of the stream is taken for the word of the source */
#define IS_STREAM_WHOLE (dom[O] == SUSPENDED || dom[O] == RUNNING)
#define IS_HANDED_OVER (true)
#else
#define IS_STREAM_WHOLE (saved && dom[O] == SUSPENDED)
#define IS_HANDED_OVER (handover)
#endif
#ifdef REVERTLOST               /* a restarted hamgrd believes that its copy never ran */
#define IS_NEVER_RUN (sep > 0)
#else
#define IS_NEVER_RUN (sep > 0 && !lost[i] && is_never_run)
#endif
#ifdef SWITCHLATE               /* SWITCH applies after ABORT */
#define IS_SWITCHABLE (phase == MIGRATING || (phase == RUNS && high > ep))
#else
#define IS_SWITCHABLE (phase == MIGRATING)
#endif
#ifdef AGENTWAITS               /* FENCED waits D after the host went off */
#define HAS_AGENT_WAITED (!dead_io[i])
#else
#define HAS_AGENT_WAITED (true)
#endif

proctype node(byte i)
{
end:
    do
    /* --- faults and their ends --- */
    :: d_step { faults < FAULTS && up[i] -> faults++; die(i); skip }
    :: d_step { faults < FAULTS && up[i] && link[i] -> faults++; link[i] = 0 }
    :: d_step { link[i] == 0 -> link[i] = 1 }
    :: d_step { faults < FAULTS && up[i] && !hung[i] -> faults++; hung[i] = 1 }
    :: d_step { hung[i] -> hung[i] = 0 }
    :: d_step { faults < FAULTS && up[i] && left[i] != 2 -> /* its verbs under way go on */
                faults++; hung[i] = 0; left[i] = 2; is_open[i] = 0;
#ifdef MIG
                lost[i] = 1; said_revert[i] = 0;
#endif
                aphase[i] = FREE; aown[i] = 0; aep[i] = 0; asep[i] = 0 }
    :: d_step { !up[i] && !io[i] -> up[i] = 1; newboot[i] = 1 }

    /* --- views, leases --- */
    :: d_step { IN_VIEW(i) && (!is_open[i] || aphase[i] != phase || aown[i] != own || aep[i] != ep) ->
                apply(i); skip }
#ifdef QLATE
    /* The keeper hears of the lease later, or not at all: the guest is resumed meanwhile. */
    :: d_step { lease[i] > 0 && quiet[i] && !hung[i] -> quiet[i] = 0 }
#endif

    /* --- hamgr-hv: pause, drain, prove; it needs no hamgrd --- */
    :: d_step { up[i] && lease[i] == 0 && dom[i] == RUNNING -> dom[i] = PAUSED }
#ifndef NOIO
    :: d_step { up[i] && dom[i] == RUNNING && !io[i] -> io[i] = 1; CHECK }
    :: d_step { up[i] && io[i] -> io[i] = 0 }
#endif
    :: d_step { up[i] && lease[i] == 0 && dom[i] != RUNNING && !quiet[i] && IS_SILENT ->
                quiet[i] = 1; /* from now on until a lease comes */
#if !defined(STALERUN) && !defined(STARTRACE)
                req[i] = 0      /* what was asked before is answered: the gate is closed */
#endif
              }

    /* --- the reconciler --- */
    :: d_step { CAN_RUN && aphase[i] == ASSIGNED && aown[i] == i && dom[i] == GONE && !req[i] ->
                dom[i] = PAUSED; lab[i] = aep[i] }
    :: d_step { CAN_RUN && (aphase[i] == ASSIGNED || aphase[i] == RUNS || aphase[i] == SWITCHED) &&
                IS_MINE && dom[i] == PAUSED && !req[i] ->
                req[i] = 1 }
#ifdef STALERESUME
    :: d_step { up[i] && !hung[i] && GATE(i) && dom[i] == PAUSED && !req[i] -> req[i] = 1 }
    /* A lease on the quorum flag, before the log is read. */
    :: d_step { ALIVE(i) && (mem & ME) && lease[i] < LEASE && !is_open[i] ->
                lease[i] = LEASE; quiet[i] = 0; age[i] = 0 }
#endif
    :: d_step { CAN_ACT && dom[i] != GONE && !IS_MINE && !IS_KEPT && !IS_COMING ->
                dom[i] = GONE; lab[i] = 0 }
    /* The gate, last: also for what was asked a while ago. */
    :: d_step { up[i] && req[i] ->
                req[i] = 0;
                if
#ifdef STARTRACE
                :: dom[i] == PAUSED ->
#else
                :: dom[i] == PAUSED && GATE(i) ->
#endif
                    /* Only what the log gives to this node (I3, I8). */
                    dom[i] = RUNNING;
#ifdef MIG
                    is_never_run = (own == i -> 0 : is_never_run);
#endif
                    CHECK;
                    assert(phase != FREE && own == i && ep == lab[i])
                :: else
                fi }
    :: d_step { IN_VIEW(i) && is_open[i] && phase == ASSIGNED && own == i && dom[i] == RUNNING &&
                lab[i] == ep -> phase = RUNS }
    /* Nothing is there, by a fresh listing, of the guest that the applied copy says is here. */
    :: d_step { IN_VIEW(i) && is_open[i] && (phase == RUNS || phase == ASSIGNED) && own == i &&
                aown[i] == i && aep[i] == ep && aphase[i] == phase && dom[i] == GONE && !req[i] &&
                phase == RUNS -> phase = FREE }

#ifdef MIG
    /* --- migration: i is the source --- */
    :: d_step { phase == RUNS && own == i && status[i] == MEMBER && (mem & BIT(O)) &&
                status[O] == MEMBER && high < EPOCHS + 1 ->
                phase = MIGRATING; high++; sep = 0; done = 0; handover = 0; saved = 0;
                lost[0] = 0; lost[1] = 0;
                is_never_run = 1 }
    :: d_step { CAN_ACT && aphase[i] == MIGRATING && aown[i] == i && dom[i] == RUNNING && !lost[i] ->
                dom[i] = SUSPENDED; saved = (phase == MIGRATING && asep[i] == high) }
    :: d_step { up[i] && !hung[i] && phase == MIGRATING && own == i && dom[i] == SUSPENDED && !lost[i] &&
                saved &&
#ifndef NODRAIN2
                !io[i] &&
#endif
                !handover -> handover = 1 }
    /* i is the destination. */
    :: d_step { CAN_RUN && aphase[i] == MIGRATING && aown[i] != i && dom[i] == GONE &&
                phase == MIGRATING && own == O && !lost[i] -> dom[i] = PAUSED; lab[i] = asep[i] }
    :: d_step { dom[i] == PAUSED && phase == MIGRATING && own == O && lab[i] == high && !done &&
                IS_STREAM_WHOLE && !lost[i] -> done = 1 }
    :: d_step { IN_VIEW(i) && is_open[i] && IS_SWITCHABLE && own == O && status[i] == MEMBER &&
                done && !lost[i] && dom[i] == PAUSED && lab[i] == high && IS_HANDED_OVER -> sep = ep; own = i; ep = high; phase = SWITCHED; done = 0; handover = 0 }
    :: d_step { IN_VIEW(i) && phase == MIGRATING -> /* either end, or the planner at its deadline */
                phase = RUNS; sep = 0;
#ifndef SWITCHLATE
                done = 0; handover = 0
#endif
              }
    :: d_step { IN_VIEW(i) && is_open[i] && phase == SWITCHED && own == i && dom[i] == RUNNING &&
                lab[i] == ep -> phase = RUNS; sep = 0 }
    /* The copy is here and was never made runnable by this process, a RUN of it failed: REVERT is
     * proposed, and from then on it is not run any more. The entry names this incarnation. */
    :: d_step { IN_VIEW(i) && is_open[i] && phase == SWITCHED && own == i && aphase[i] == SWITCHED &&
                aown[i] == i && dom[i] == PAUSED && lab[i] == ep && !req[i] && IS_NEVER_RUN &&
                !reverting -> reverting = 1; said_revert[i] = 1 }
    :: d_step { reverting && mem != 0 && own == i ->
                reverting = 0;
                if
                :: phase == SWITCHED && sep > 0 -> own = O; ep = sep; sep = 0; phase = RUNS
                :: else
                fi }
    /* The source's suspended copy is given back by ABORT or REVERT only. */
    :: d_step { CAN_RUN && aphase[i] == RUNS && IS_MINE && dom[i] == SUSPENDED -> dom[i] = PAUSED }
#ifdef SRCTIMEOUT
    :: d_step { up[i] && GATE(i) && dom[i] == SUSPENDED -> dom[i] = RUNNING; CHECK }
#endif
#endif

    /* --- the leader: who it is makes no difference --- */
    :: d_step { mem != 0 && (mem & ME) == 0 && status[i] == UNCLEAN && pend[i] == 0 &&
                age[i] + DRIFT >= T_WAIT -> pend[i] = 1 }
#ifdef AGENT
    /* A fence agent's verified off. What the dead host has in flight lives on for D. */
    :: d_step { mem != 0 && (mem & ME) == 0 && status[i] == UNCLEAN && pend[i] == 0 && up[i] ->
                die(i);
                pend[i] = 1 }
#endif
    :: d_step { pend[i] > 0 && mem != 0 && HAS_AGENT_WAITED ->
                if
#ifdef FENCERACE
                :: 1 -> release(i)
#else
                :: status[i] == UNCLEAN && pend[i] == 1 -> status[i] = FENCED; release(i)
#endif
                :: else
                fi;
                pend[i] = 0;
                CHECK }
    :: d_step { phase == FREE && (mem & ME) && status[i] == MEMBER && high < EPOCHS + 1 ->
                phase = ASSIGNED; own = i; high++; ep = high }
#ifdef NOFENCE
    :: d_step { phase == RUNS && own == i && status[i] == UNCLEAN && mem != 0 -> phase = FREE }
#endif
#ifdef GOODBYE
    :: d_step { IN_VIEW(i) && own == i && phase == RUNS && dom[i] == RUNNING && !hung[i] ->
                phase = FREE }
#endif
    od
}

proctype clock()
{
end:
    do
    :: VIEW(1)
    :: VIEW(2)
    :: VIEW(3)
    :: d_step { 1 -> tick1(0, 0); tick1(1, 0); CHECK }
#ifdef LOSSY
    :: d_step { IS_RENEWED(0) -> tick1(0, 1); tick1(1, 0); CHECK }
    :: d_step { IS_RENEWED(1) -> tick1(0, 0); tick1(1, 1); CHECK }
    :: d_step { IS_RENEWED(0) && IS_RENEWED(1) -> tick1(0, 1); tick1(1, 1); CHECK }
#endif
    od
}

init {
    d_step { dom[0] = RUNNING; lab[0] = 1 }
    atomic { run clock(); run node(0); run node(1) } /* time begins when the guest runs */
}

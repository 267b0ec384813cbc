/* SPDX-License-Identifier: Apache-2.0
 *
 * Arming (I6): whoever the log calls ARMED has a keeper that works. One node, its hamgrd (which may
 * be restarted and whose applied copy is behind), its keeper behind a socket that keeps order, and
 * the entries ARMED, UNARMED, ARM, DISARM, FREEZE, UNFREEZE in any order, as in
 * hamgr/core/state_node.c, hamgr/shell/keeperlink.c and reconcile.c (tell_keeper). A proposal may lie
 * anywhere for any time before it is applied. The lease is there all the time: what it does is in
 * guest.pml; here only the keeper's being armed counts.
 */
#ifndef ENTRIES
#define ENTRIES 6
#endif
#define NOTHING 0
#define QUERY 1
#define ARM_IT 2
#define DISARM_IT 3

/* Committed state by index: bit 0 disarmed, bit 1 frozen, bit 2 the node is armed. */
#define DISARMED 1
#define FROZEN 2
#define ARMED 4
byte hist[ENTRIES + 1];
byte unarmed[ENTRIES + 1];      /* entry that last took or voided the arming, as of this index */
byte last;                      /* newest committed */
byte applied, live;             /* of hamgrd; it is current from `live` on */
bit keeper;                     /* armed */
/* What hamgrd knows of the keeper, and the requests under way, oldest first. */
bit is_known, knows_armed;
byte seen, asked;               /* applied when the status was asked for */
bit waits;
byte q[2];
bit answer, answers;            /* an answer on its way back: armed or not */
bit proposed, proposed_unarmed; /* ARMED{seen}, UNARMED under way */
byte claim;

#define NOW hist[last]
#define MINE hist[applied]
#define CHECK assert(!(NOW & ARMED) || keeper)

inline append(state) {
    hist[last + 1] = state;
    unarmed[last + 1] = ((NOW & ARMED) && !((state) & ARMED) || (state & 3) != (NOW & 3)
                         -> last + 1 : unarmed[last]);
    last++;
    CHECK
}
#define SEND(m) q[(q[0] == NOTHING -> 0 : 1)] = m
#define HAS_ROOM (q[1] == NOTHING && !answers)

#ifdef STALEKEEPER              /* ARMED counts however old the look at the keeper was */
#define IS_FRESH (true)
#else
#define IS_FRESH (claim >= unarmed[last])
#endif
#ifdef EARLYDISARM              /* the keeper stops when it is asked for, not when it is applied */
#define MAY_DISARM (true)
#elif defined(ARMEDDISARM)      /* by the wish, though the log still counts on this node */
#define MAY_DISARM (hist[applied] & (DISARMED | FROZEN) || NOW & (DISARMED | FROZEN))
#else
#define MAY_DISARM (!(MINE & ARMED) && (MINE & (DISARMED | FROZEN)))
#endif
#ifdef STALESTATE               /* a restarted hamgrd disarms by its old snapshot */
#define IS_CURRENT (true)
#else
#define IS_CURRENT (applied >= live)
#endif

init {
end:
    do
    /* --- operators, in any order --- */
    :: d_step { last < ENTRIES && !(NOW & DISARMED) -> append((NOW | DISARMED) & ~ARMED); skip }
    :: d_step { last < ENTRIES && (NOW & DISARMED) -> append(NOW & ~(DISARMED | ARMED)); skip }
    :: d_step { last < ENTRIES && !(NOW & FROZEN) -> append((NOW | FROZEN) & ~ARMED); skip }
    :: d_step { last < ENTRIES && (NOW & FROZEN) -> append(NOW & ~(FROZEN | ARMED)); skip }

#ifdef REJOIN
    /* Left out of a view and back, the same process: a new incarnation, not armed, and what was
     * proposed for the old one is void. */
    :: d_step { last < ENTRIES ->
                append(NOW & ~ARMED);
#ifdef REJOINCOUNTS
                unarmed[last] = last;
#else
                unarmed[last] = 0;
#endif
                proposed = 0; proposed_unarmed = 0; live = last }
#endif

    /* --- proposals of the node, applied at any later time or never --- */
    :: d_step { proposed -> proposed = 0;
                if
                :: last < ENTRIES && !(NOW & (DISARMED | FROZEN)) && !(NOW & ARMED) && IS_FRESH ->
                    append(NOW | ARMED)
                :: else
                fi }
    :: d_step { proposed_unarmed -> proposed_unarmed = 0;
                if
                :: last < ENTRIES && (NOW & ARMED) -> append(NOW & ~ARMED)
                :: else
                fi }

    /* --- hamgrd --- */
    :: d_step { applied < last -> applied++ }
    :: d_step { is_known && !knows_armed && HAS_ROOM && !waits && !(MINE & (DISARMED | FROZEN)) ->
                SEND(ARM_IT); asked = applied; waits = 1 }
    :: d_step { is_known && knows_armed && HAS_ROOM && !waits && IS_CURRENT && MAY_DISARM ->
                SEND(DISARM_IT); asked = 0; waits = 1 }
    :: d_step { HAS_ROOM && !waits && (!is_known || seen < unarmed[applied]) ->
                SEND(QUERY); asked = applied; waits = 1 }
    :: d_step { answers -> answers = 0; waits = 0; is_known = 1; knows_armed = answer; seen = asked;
                answer = 0 }
    :: d_step { is_known && knows_armed && !proposed && IS_CURRENT ->
                proposed = 1; claim = seen }
    :: d_step { is_known && !knows_armed && !proposed_unarmed && IS_CURRENT && (MINE & ARMED) ->
                proposed_unarmed = 1 }
    /* A new process: it knows its snapshot, and acts in a view that follows all committed by now.
     * What the old one had sent to the keeper is handled before the new one is let in. */
    :: d_step { waits || is_known -> waits = 0; is_known = 0; knows_armed = 0; seen = 0; asked = 0;
                answers = 0; answer = 0; live = last; proposed = 0; proposed_unarmed = 0; applied = 0;
                if
                :: q[0] == DISARM_IT || q[1] == DISARM_IT -> keeper = 0
                :: q[0] == ARM_IT || q[1] == ARM_IT -> keeper = 1
                :: else
                fi;
                q[0] = NOTHING; q[1] = NOTHING; CHECK }

    /* --- the keeper --- */
    :: d_step { q[0] != NOTHING && !answers ->
                if
                :: q[0] == ARM_IT -> keeper = 1
                :: q[0] == DISARM_IT -> keeper = 0
                :: else
                fi;
                answers = 1; answer = keeper;
                q[0] = q[1]; q[1] = NOTHING; CHECK }
    od
}

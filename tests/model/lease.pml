/* SPDX-License-Identifier: Apache-2.0
 *
 * Leases and evidence over the log, as quorum/lease.c does it: three voters, node 0 is the one whose
 * lease and fencing are looked at. Views name their members, members acknowledge the heartbeats of
 * the members of the view they promised last, an acknowledgement counts only under one and the same
 * durable OPEN that names node 0, a promise tells the age of its sender's last acknowledgement, and
 * the leader of an open view without node 0 numbers FENCED{0, its first incarnation} when the
 * evidence E reaches T_wait. FENCED is an entry like others: it may be stored by a minority, adopted
 * or lost by a later view.
 *
 * Property: once that FENCED is committed and takes effect, node 0 runs nothing, unless it has
 * applied an OPEN that lies behind it (then it knows that its guests are gone).
 *
 * Time goes in ticks and may go on for ever; every number of ticks saturates. A clock may be one tick
 * off over a lease or over T_wait, on both sides: the lease really lasts up to L + 1, the leader's E
 * is up to 1 too large. Messages are delivered at once, later or never: whatever is late is the
 * harmless case here (the lease counts from the sending, the age from the delivery). Node 0 never
 * leads: what it does as a leader it also does as a member, and the evidence is others' about it.
 */
#ifndef VIEWS
#define VIEWS 3
#endif
#define VN (VIEWS + 1)
#define N 3
#define NONE 15
#define BIT(i) (1 << (i))
#define TWO(m) ((m) == 3 || (m) == 5 || (m) == 6 || (m) == 7)

#ifndef L
#define L 1
#endif
#define W 1
#define DRIFT 1
#define LEASE (L + DRIFT)       /* real ticks, by a slow clock */
#ifdef NODRIFT
#define T_WAIT (L + W)
#elif defined(NOWATCHDOG)
#define T_WAIT (L + 2 * DRIFT)
#else
#define T_WAIT (L + W + 2 * DRIFT) /* (L + P + W)(1 + 2 rho) + B + D; P, B and D are 0 here */
#endif
#define OLD (T_WAIT - DRIFT)    /* longer ago makes no difference */

/* What the log says of node 0 after OPEN(w). */
#define M1 0                    /* member, first incarnation */
#define U1 1                    /* that one is UNCLEAN */
#define F1 2                    /* ... and fenced */
#define M2 3                    /* member again, its guests followed: a late FENCED is a no-op */
#define M2F 4                   /* member again after FENCED: its guests were freed */
#define X2 5                    /* out of a view once more: a second incarnation is not followed */

byte pv[N], lv[N], in[N];
bit hf[N];                      /* holds FENCED behind OPEN(lv) */
bit forgot[N];                  /* a new process: acknowledges nobody until it promises */
byte age[N];                    /* since this node last acknowledged node 0 */
byte reca[N], reco[N];          /* what node 0 has got from it: how long ago sent, under which OPEN */
byte left;                       /* ticks for which node 0 may still run: lease + W */
bit has_opened;                 /* node 0 is in an open view and its lease is not void */
byte applied;                   /* the last OPEN node 0 applied */

byte vs[VN], ldr[VN], names[VN], prm[VN], oack[VN], fack[VN], st[VN], e[VN], plv[VN];
bit phf[VN], numf[VN];
bit fenced;

hidden byte x;

#define LEASE_IS_VALID (left > W)
#define IS_OPEN(w) TWO(oack[w])
/* What the log of view w says at its end, with or without its tail. */
#define STATUS(w, tail) ((tail) -> F1 : st[w])

#define CHECK assert(!(fenced && left > 0 && st[applied] != M2F))

inline effect(w) {              /* OPEN(w) or what follows it was committed */
    if
    :: TWO(oack[w]) && (st[w] == F1 || st[w] == M2F) -> fenced = 1
    :: TWO(fack[w]) -> fenced = 1
    :: else
    fi;
    CHECK
}

#if defined(OWNAGE)
#define AGE_COUNTS(w) && ldr[w] == i
#elif defined(KEEPAGE)          /* an earlier leader's evidence goes on: nobody is asked again */
#define AGE_COUNTS(w) && !(w > 1 && vs[(w) - 1] > 0 && !(names[(w) - 1] & 1) && e[(w) - 1] == OLD)
#else
#define AGE_COUNTS(w)
#endif

#define START1(w, set) \
    :: d_step { vs[w] == 0 && (w == 1 || vs[w - 1] > 0) && pv[i] < w && lv[i] < w && \
                i > 0 && ((set) & BIT(i)) -> \
                vs[w] = 1; ldr[w] = i; names[w] = set; e[w] = OLD; promise(w); skip }
#define START(w) START1(w, 3) START1(w, 5) START1(w, 6) START1(w, 7)

inline promise(w) {
    pv[i] = w; in[i] = w; forgot[i] = 0;
    prm[w] = prm[w] | BIT(i);
    /* The leader keeps the best log it heard of and the smallest age. */
    if
    :: lv[i] > plv[w] || (lv[i] == plv[w] && hf[i]) -> plv[w] = lv[i]; phf[w] = hf[i]
    :: else
    fi;
    if
    :: !(names[w] & 1) && age[i] < e[w] AGE_COUNTS(w) -> e[w] = age[i]
    :: else
    fi
}
#define PROMISE(w) \
    :: d_step { vs[w] == 1 && (names[w] & BIT(i)) && pv[i] < w && lv[i] < w -> promise(w); skip }

/* The leader adopts when all named have promised. */
#define CHOOSE(w) \
    :: d_step { vs[w] == 1 && ldr[w] == i && in[i] == w && prm[w] == names[w] -> \
        vs[w] = 2; \
        x = STATUS(plv[w], phf[w]); \
        if \
        :: names[w] & 1 -> st[w] = (x == U1 -> M2 : (x == F1 -> M2F : x)) \
        :: else -> st[w] = (x == M1 -> U1 : (x == M2 -> X2 : x)) \
        fi; \
        plv[w] = 0; phf[w] = 0 }

#define STORE(w) \
    :: d_step { vs[w] == 2 && in[i] == w && lv[i] < w -> \
                lv[i] = w; hf[i] = 0; oack[w] = oack[w] | BIT(i); effect(w); skip }

#define NUMBER(w) \
    :: d_step { IS_OPEN(w) && ldr[w] == i && in[i] == w && lv[i] == w && st[w] == U1 && \
                !numf[w] && e[w] + DRIFT >= T_WAIT -> numf[w] = 1 }
#define STORE_F(w) \
    :: d_step { numf[w] && in[i] == w && lv[i] == w && !hf[i] -> \
                hf[i] = 1; fack[w] = fack[w] | BIT(i); effect(w); skip }

/* Node 0 applies the OPEN that names it. */
#define OPENED(w) \
    :: d_step { IS_OPEN(w) && i == 0 && in[0] == w && lv[0] == w && (names[w] & 1) && \
                applied < w -> \
                applied = w; \
                if \
                :: !LEASE_IS_VALID -> has_opened = 1; reco[1] = NONE; reco[2] = NONE \
                :: else \
                fi; \
                CHECK }

#if VIEWS == 2
#define EACH(M) M(1) M(2)
#else
#define EACH(M) M(1) M(2) M(3)
#endif

#ifdef ACKEVICTED
#define MAY_ACK (!forgot[i])
#else
#define MAY_ACK (!forgot[i] && (names[pv[i]] & 1))
#endif
#define OPEN_SAID ((names[lv[i]] & 1) -> lv[i] : NONE)

#ifdef OPENOTHER
#define IS_SAME_OPEN(u) (1)
#else
#define IS_SAME_OPEN(u) (reco[u] == lv[0] && (names[lv[0]] & 1))
#endif
#ifdef NOVOID
#define MAY_RENEW 1
#else
/* The first lease behind one that ended needs the view it is in to be open, not an earlier one. */
#define MAY_RENEW (LEASE_IS_VALID || (has_opened && in[0] == lv[0] && applied == in[0]))
#endif
#ifdef RECEIPT
#define LEFT(u) LEASE
#else
#define LEFT(u) (LEASE - reca[u])
#endif
#define COUNT(u) \
    :: d_step { i == 0 && reca[u] < LEASE && MAY_RENEW && IS_SAME_OPEN(u) && \
                LEFT(u) + W > left -> left = LEFT(u) + W; CHECK }

#define OLDER(t) t = ((t) < OLD -> (t) + 1 : OLD)
#define STALER(t) t = ((t) < LEASE -> (t) + 1 : LEASE)
inline tick() {
    OLDER(age[1]); OLDER(age[2]);
    STALER(reca[1]); STALER(reca[2]);
    x = 1;
    do
    :: x < VN ->
        if
        :: vs[x] > 0 && !(names[x] & 1) -> OLDER(e[x])
        :: else
        fi;
        x++
    :: else -> break
    od;
    if
    :: left > 0 ->
        left--;
        if
        :: left == W ->         /* the lease has ended: it is void, the view is left */
            has_opened = 0; in[0] = NONE;
#ifndef NOVOID
            reco[1] = NONE; reco[2] = NONE
#endif
        :: else
        fi
    :: else
    fi
}

proctype node(byte i)
{
end:
    do
    EACH(START)
    EACH(PROMISE)
    EACH(CHOOSE)
    EACH(STORE)
    EACH(NUMBER)
    EACH(STORE_F)
    EACH(OPENED)
    COUNT(1)
    COUNT(2)
    :: d_step { i > 0 && MAY_ACK -> age[i] = 0 } /* it is lost on the way back */
    :: d_step { i > 0 && MAY_ACK -> age[i] = 0; reca[i] = 0; reco[i] = OPEN_SAID }
    :: d_step { i > 0 && !forgot[i] -> /* a new process; ages count from its start at the latest */
                forgot[i] = 1; in[i] = NONE;
#ifdef RESTARTAGE
                age[i] = OLD
#else
                age[i] = 0
#endif
              }
    :: d_step { i == 0 -> tick(); skip }
    od
}

init {
    d_step {
        names[0] = 7; prm[0] = 7; oack[0] = 7; vs[0] = 2; st[0] = M1;
        left = LEASE + W; has_opened = 1;
        reco[1] = NONE; reco[2] = NONE
    }
    atomic { run node(0); run node(1); run node(2) }
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * The replicated log as quorum/log*.c does it: views, durable promises, adoption of the log with the
 * highest (log view, length), OPEN as the view's first entry, acknowledgement, commit, catching up
 * outside views, a lost store, a leader that restarts before its own promise is durable and uses the
 * same view number again; with VOTERS also voter changes, counted by the log itself.
 *
 * A log is always a prefix of the log of the view it was last stored in, so a node's log is the pair
 * (lv, sz). Messages may be late or lost: every step may happen at any later time or never, what an
 * old message said is kept as said (the promise's position, the acknowledgement). A crash and restart
 * is a node that never does another step in its view; what it had said was durable before.
 */
#ifndef VIEWS
#define VIEWS 2                 /* further views, after view 0 that is open at the beginning */
#endif
#ifdef VOTERS
#define N 4                     /* node 3 is a learner at first */
#define APPENDS 2
#define BASE 7
#else
#define N 3
#define APPENDS 1
#define BASE 7
#endif
#define VN (VIEWS + 1)
#define SLOTS ((1 + APPENDS) * VN)
#define NONE 15
#define BIT(i) (1 << (i))

#define OPEN_ENTRY(w) (1 + 2 * (w))
#define DATA_ENTRY(w) (2 + 2 * (w))
#define VOTER_ENTRY(w, n) (64 + 4 * (w) + (n)) /* makes n a voter, or no voter */

/* Nodes: durable promise, log view, length; the view it takes part in as a process. */
byte pv[N], lv[N], sz[N], in[N];
byte lost;                      /* stores that were lost and came back empty under a new id */
/* Views: state, leader, its log, index of its OPEN, who promised to this leader or an earlier process
 * of it; what each promised and acknowledged. */
byte vs[VN], ldr[VN], vlen[VN], oidx[VN], prm[VN], old[VN], opened[VN], reused[VN];
byte vent[VN * SLOTS];
byte plv[VN * N], plen[VN * N], ack[VN * N];
/* What was ever committed. */
byte clen, maxopen, com[SLOTS];
byte vcom[VN];                  /* committed length of each view, as its leader may know it */
#ifdef ACKEARLY
byte dlv[N], dsz[N], dirty;     /* what is durable of an unfinished write */
#endif

#define ENT(w, s) vent[(w) * SLOTS + (s)]

hidden byte x, y, z, votes, cfg, win, best, bestlen, has, d;

/* Voters named by the first n entries of view w's log. */
inline config(w, n) {
    cfg = BASE;
#ifdef VOTERS
    z = 0;
    do
    :: z < n ->
        if
        :: ENT(w, z) >= 64 -> cfg = cfg ^ BIT(ENT(w, z) & 3)
        :: else
        fi;
        z++
    :: else -> break
    od;
#endif
#ifndef AMNESIA
    cfg = cfg & ~lost;          /* (node, store id): the new store is not the one named */
#endif
}

inline weigh() {                /* votes = voters named, as in cfg but lost ones too */
    votes = 0;
    z = 0;
    do
    :: z < N -> votes = votes + ((cfg >> z) & 1); z++
    :: else -> break
    od
}

/* has = 1 if `set` holds a quorum of the voters of (w, n). */
inline quorum(w, n, set) {
    config(w, n);
    cfg = cfg | (BASE & lost);  /* who lost its store is still named, it just cannot vote */
#ifdef VOTERS
    z = 0;
    cfg = BASE;
    do
    :: z < n ->
        if
        :: ENT(w, z) >= 64 -> cfg = cfg ^ BIT(ENT(w, z) & 3)
        :: else
        fi;
        z++
    :: else -> break
    od;
#endif
    weigh();
    best = votes / 2 + 1;
#ifdef LONELY
    best = 1;                   /* one node and a vote that keeps no log */
#endif
    config(w, n);
    cfg = cfg & (set);
    weigh();
    has = (votes >= best)
}

/* Entries below n of view w are committed: the same everywhere, and nothing is committed in a view
 * older than an open one. */
inline commit(w, n) {
    y = 0;
    do
    :: y < n && y < clen -> assert(com[y] == ENT(w, y)); y++
    :: y < n && y >= clen -> assert(maxopen <= w); com[y] = ENT(w, y); clen++; y++
    :: else -> break
    od;
    if
    :: n > vcom[w] -> vcom[w] = n
    :: else
    fi
#ifndef VOTERS
    ;
    y = 0;
    do                          /* counted: forget */
    :: y < N ->
        if
        :: ack[(w) * N + y] <= vcom[w] -> ack[(w) * N + y] = 0
        :: else
        fi;
        y++
    :: else -> break
    od
#endif
}

/* What follows from the acknowledgements of view w. Each member counts for itself, by the voters its
 * own log names, which is m long. */
inline count(w) {
    d = oidx[w] + 1;
    do
    :: d <= vlen[w] ->
        x = d;
        do
        :: x <= vlen[w] ->
            win = 0;
            y = 0;
            do
            :: y < N ->
                if
                :: ack[(w) * N + y] >= d && (prm[w] & ~old[w] & BIT(y)) -> win = win | BIT(y)
                :: else
                fi;
                y++
            :: else -> break
            od;
            quorum(w, x, win);
#ifdef HALFOPEN
            has = has || (d == oidx[w] + 1 && (win & BIT(ldr[w])));
#endif
            if
            :: has ->
                if
                :: !opened[w] && d > oidx[w] ->
                    /* An open view contains everything committed before. */
                    assert(w < maxopen || clen <= oidx[w] + 1);
                    opened[w] = 1;
                    maxopen = (w > maxopen -> w : maxopen)
                :: else
                fi;
                commit(w, d)
            :: else
            fi;
            x++
        :: else -> break
        od;
        d++
    :: else -> break
    od
}

/* Leader i begins view w. */
#define START(w) \
    :: d_step { vs[w] == 0 && pv[i] < w && lv[i] < w && \
                !(lost & BIT(i)) -> vs[w] = 1; ldr[w] = i }

/* A durable promise; until the leader has chosen. */
#ifdef MINORITYCHOOSE
#define MAY_PROMISE(w) (vs[w] >= 1)
#else
#define MAY_PROMISE(w) (vs[w] == 1)
#endif
#define PROMISE(w) \
    :: d_step { MAY_PROMISE(w) && !(prm[w] & BIT(i)) && pv[i] < w && lv[i] < w -> \
                pv[i] = w; in[i] = w; prm[w] = prm[w] | BIT(i); \
                plv[w * N + i] = lv[i]; plen[w * N + i] = sz[i] }

/* The leader's process dies before its promise is durable; the next one uses the number again. Who
 * promised to the old one is bound to that, but its promise may be delivered to the new one. */
#define REUSE(w) \
    :: d_step { vs[w] == 1 && ldr[w] == i && !reused[w] && prm[w] != 0 && !(prm[w] & BIT(i)) -> \
                reused[w] = 1; old[w] = prm[w] }

#if defined(FIG8)
#define KEY(w, j) ((plen[w * N + j] == 0 -> 0 : (ENT(plv[w * N + j], plen[w * N + j] - 1) - 1) / 2) \
                   * 16 + plen[w * N + j])
#elif defined(LONGEST)
#define KEY(w, j) (plen[w * N + j])
#else
#define KEY(w, j) (plv[w * N + j] * 16 + plen[w * N + j])
#endif

/* All named have promised, and they are a quorum of the voters that the log chosen names. */
#define CHOOSE(w) \
    :: d_step { vs[w] == 1 && ldr[w] == i && (prm[w] & ~old[w] & BIT(i)) && in[i] == w && \
                pv[i] == w -> \
        choose(w); skip }

inline choose(w) {
    win = i;
    x = 0;
    do
    :: x < N ->
        if
        :: (prm[w] & BIT(x)) && KEY(w, x) > KEY(w, win) -> win = x
        :: else
        fi;
        x++
    :: else -> break
    od;
    /* Another's log is fetched from it, while it waits in this view of this very leader. */
    if
    :: win != i && (in[win] != w || pv[win] != w || (old[w] & BIT(win))) -> has = 0
    :: else ->
#ifdef OLDQUORUM
        quorum(plv[w * N + i], plen[w * N + i], prm[w])
#else
        quorum(plv[w * N + win], plen[w * N + win], prm[w])
#endif
#ifdef MINORITYCHOOSE
        ;
        has = 1
#endif
    fi;
    if
    :: has ->
        vs[w] = 2;
        bestlen = plen[w * N + win];
        best = plv[w * N + win];
        x = 0;
        do
        :: x < bestlen -> ENT(w, x) = ENT(best, x); x++
        :: else -> break
        od;
#ifdef FIG8
        oidx[w] = bestlen - 1;  /* a view without an entry of its own */
        vlen[w] = bestlen;
#else
        oidx[w] = bestlen;
        ENT(w, bestlen) = OPEN_ENTRY(w);
        vlen[w] = bestlen + 1;
#endif
        reused[w] = 0;
        x = 0;
        do                      /* said and used: forget, so that equal states are equal */
        :: x < N -> plv[w * N + x] = 0; plen[w * N + x] = 0; x++
        :: else -> break
        od
    :: else
    fi
}

/* Adopts log and OPEN in one write, or takes the next entry; then acknowledges. */
#ifdef NOPROMISE
#define MAY_STORE(w) (prm[w] & BIT(i))
#else
#define MAY_STORE(w) (in[i] == w && pv[i] == w)
#endif
#ifdef ACKEARLY
#define KEEP_LOG if :: !(dirty & BIT(i)) -> dlv[i] = lv[i]; dsz[i] = sz[i]; dirty = dirty | BIT(i) \
                    :: else fi;
#else
#define KEEP_LOG
#endif
#define STORE(w) \
    :: d_step { vs[w] == 2 && MAY_STORE(w) && !(old[w] & BIT(i)) && \
                (lv[i] != w || sz[i] < vlen[w]) && lv[i] <= w -> \
        KEEP_LOG \
        if \
        :: lv[i] != w -> lv[i] = w; sz[i] = oidx[w] + 1 \
        :: else -> sz[i]++ \
        fi; \
        ack[w * N + i] = sz[i]; \
        count(w); skip }

/* The leader of the open view numbers one more. */
#define APPEND(w) \
    :: d_step { opened[w] && ldr[w] == i && in[i] == w && pv[i] == w && lv[i] == w && \
                vlen[w] <= oidx[w] + APPENDS -> \
                ENT(w, vlen[w]) = DATA_ENTRY(w); vlen[w]++ }

#ifdef VOTERS
/* A voter more or less: the change before is committed in this view, a new voter has just shown that
 * its store works. */
#ifdef TWOCHANGES
#define IS_SETTLED(w) 1
#else
#define IS_SETTLED(w) (has == 0)
#endif
#define CHANGE(w, n) \
    :: d_step { MAY_CHANGE(w) && ldr[w] == i && in[i] == w && pv[i] == w && \
                vlen[w] <= oidx[w] + APPENDS && ack[w * N + n] > 0 -> \
        change(w, n); skip }
#ifdef EARLYVOTER
#define MAY_CHANGE(w) (vs[w] == 2)
#else
#define MAY_CHANGE(w) (opened[w])
#endif

inline change(w, n) {
    x = vcom[w];
    has = 0;
    do
    :: x < vlen[w] -> has = has | (ENT(w, x) >= 64); x++
    :: else -> break
    od;
    if
    :: IS_SETTLED(w) ->
        config(w, vlen[w]);
        if
        :: cfg != BIT(n) -> ENT(w, vlen[w]) = VOTER_ENTRY(w, n); vlen[w]++
        :: else
        fi
    :: else
    fi
}
#define CHANGES(w) CHANGE(w, 0) CHANGE(w, 2) CHANGE(w, 3)
#else
#define CHANGES(w)
#endif

/* Outside any view: takes committed entries from the leader of an open view; where its own differ
 * they go. */
#ifdef CATCHUPUNOPEN
#define MAY_CATCH_UP(w) (vs[w] == 2)
#define REACH(w) (vlen[w])
#else
#define MAY_CATCH_UP(w) (opened[w])
#define REACH(w) (vcom[w])
#endif
#define CATCH_UP(w) \
    :: d_step { MAY_CATCH_UP(w) && lv[i] <= w && ldr[w] != i && sz[i] < SLOTS -> catch_up(w); skip }

inline catch_up(w) {
    x = 0;                      /* how far both are the same */
    do
    :: x < sz[i] && x < REACH(w) && ENT(lv[i], x) == ENT(w, x) -> x++
    :: else -> break
    od;
    if
    :: x < REACH(w) -> lv[i] = w; sz[i] = x + 1; in[i] = NONE
    :: else
    fi
}

#if VIEWS == 1
#define EACH(M) M(1)
#elif VIEWS == 2
#define EACH(M) M(1) M(2)
#else
#define EACH(M) M(1) M(2) M(3)
#endif

init {
    byte n = 0;
    d_step {
        /* View 0 of node 0 is open, its OPEN is everywhere (a learner has it by catching up). */
        vs[0] = 2; opened[0] = 1; vlen[0] = 1; ENT(0, 0) = OPEN_ENTRY(0); clen = 1; vcom[0] = 1;
        com[0] = OPEN_ENTRY(0);
        prm[0] = BIT(N) - 1;
        do
        :: n < N -> lv[n] = 0; sz[n] = 1; in[n] = 0; ack[n] = 1; n++
        :: else -> break
        od;
        n = 0;
    }
    atomic {
        do
        :: n < N -> run node(n); n++
        :: else -> break
        od
    }
}

proctype node(byte i)
{
end:
    do
    EACH(START)
    EACH(PROMISE)
#ifndef NOREUSE
    EACH(REUSE)
#endif
    EACH(CHOOSE)
    STORE(0)
    EACH(STORE)
#ifdef VOTERS
    CHANGES(0)
    EACH(CHANGES)
#else
    APPEND(0)
    EACH(APPEND)
#endif
#ifndef NOCATCHUP
    EACH(CATCH_UP)
#endif
#ifndef NOLOSS
    :: d_step { lost == 0 && (BASE & BIT(i)) ->
                lost = BIT(i); lv[i] = 0; sz[i] = 0; pv[i] = 0; in[i] = NONE }
#endif
#ifdef ACKEARLY
    :: d_step { dirty & BIT(i) -> dirty = dirty & ~BIT(i) } /* now it is durable */
    :: d_step { dirty & BIT(i) ->
                dirty = dirty & ~BIT(i); in[i] = NONE; lv[i] = dlv[i]; sz[i] = dsz[i] }
#endif
    od
}

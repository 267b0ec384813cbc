/* SPDX-License-Identifier: Apache-2.0
 *
 * One end of a migration, source or destination, as a table-driven machine: which step it is in,
 * which timeout applies, how fast it goes. It carries out what the log ordered (MIGRATE) and
 * reports; it never decides who may run the guest: that is SWITCH, ABORT, ARRIVED and REVERT in the
 * log, proposed by hamgr/core/reconcile.c. No timeout here resumes or destroys anything: a late
 * step before the hand-over fails this end, and the reconciler then proposes ABORT; a late decision
 * is only reported.
 *
 * Pure: the shell owns processes, sockets and timers. Times are its CLOCK_MONOTONIC_RAW in ms.
 */
#ifndef MIGRATE_MOVE_FSM_H
#define MIGRATE_MOVE_FSM_H

#include "hamgr/core/runtime.h"

/*  Source:
 *  PREPARING -connected-> COPYING -guest suspended-> STOPPED -saved (suspended and drained)-->
 *  DECIDING -SWITCH applied-> FINISHING
 *
 *  Destination:
 *  PREPARING -connected-> COPYING -source suspended-> STOPPED -restored and HANDOVER heard-->
 *  DECIDING -SWITCH applied-> FINISHING
 *
 *  Both: PREPARING, COPYING, STOPPED -failure, late, cancelled-> FAILED
 *
 *  An end that has failed stays so until its ticket is closed; an end in DECIDING or FINISHING is
 *  moved by the log alone. ARRIVED, ABORT and REVERT close the ticket: the shell drops the machine.
 */

/* PREPARING: hamgr-stream spawned and memory claimed at the destination < 4 s on a busy host, READY
 * heard by the source < 1 s, TCP connect with two SYNs lost 1 + 2 + 4 s, TLS < 3 s. */
#define MOVE_PREPARE_MS 15000u
/* STOPPED: after the last byte the source's I/O drains (10 s, hvproto.h) and workers end (2 s); an
 * idle time comes on top, for the last bytes may just have moved. */
#define MOVE_DRAIN_MS 12000u
/* DECIDING, FINISHING: a commit takes milliseconds, a view change seconds. Said, not acted upon. */
#define MOVE_REPORT_MS 5000u
/* Idle time if the configuration gives none. */
#define MOVE_IDLE_MS 10000u
/* So many times as long, while copying, when the destination's hypervisor is what takes nothing. */
#define MOVE_PATIENCE 12u
/* Rates are averages over about this long, with at least MOVE_SAMPLE_MS between samples. */
#define MOVE_WINDOW_MS     2000u
#define MOVE_SAMPLE_MS     125u
#define MOVE_NEWS_MS       1000u
#define MOVE_REPEAT_MS     200u
#define MOVE_REPEAT_MAX_MS 1600u
#define MOVE_SAMPLES       17u /* MOVE_WINDOW_MS / MOVE_SAMPLE_MS + 1 */
/* An estimate that gets worse is believed only when it stays worse for so long: until then the time
 * shown goes on counting down. The same for "does not converge". */
#define MOVE_ETA_PATIENCE_MS 2000u

/* Transparent; private below. */
struct move_fsm {
    bool is_source;
    uint8_t step; /* enum ha_move_step */
    bool is_connected;
    bool is_stream_done;
    bool is_hv_done;  /* saved or restored */
    bool is_patient;  /* the destination's hypervisor takes nothing just now */
    bool is_handover; /* source: hamgr-hv said suspended and drained; destination: heard it */
    uint32_t idle_ms;
    uint32_t deadline_ms; /* 0 = none */
    uint64_t start_ms;
    uint64_t step_ms;     /* when the step began */
    uint64_t moved_ms;    /* when a byte last moved */
    uint64_t end_ms;      /* not 0: the copying has ended, elapsed time stands still */
    uint64_t bytes;       /* native stream, the largest number seen */
    uint64_t round_pages; /* pages of the present round */
    struct hv_progress hv;
    uint32_t repeat_ms;     /* 0: nothing was said yet */
    uint64_t news_ms;       /* when the others were told last, */
    uint8_t news_phase;     /* and of which phase */
    uint64_t eta_end_ms;    /* the end as shown; 0 = not known */
    uint64_t eta_agreed_ms; /* when an estimate last agreed with it */
    uint64_t diverged_ms;   /* since when the guest writes faster than the stream drains; 0 = not */
    uint32_t sample_count;
    struct {
        uint64_t at_ms;
        uint64_t bytes;
    } samples[MOVE_SAMPLES]; /* oldest first */
};

/* idle_ms: no byte moved for this long = failed (0 = MOVE_IDLE_MS). deadline_ms: the whole
 * migration up to the hand-over (0 = none). */
void move_fsm_init(struct move_fsm *fsm, bool is_source, uint32_t idle_ms, uint32_t deadline_ms,
                   uint64_t now_ms);
/* STREAMP_CONNECTED: mutual TLS done. */
void move_fsm_connected(struct move_fsm *fsm, uint64_t now_ms);
/* Progress of the save or restore. */
void move_fsm_hv(struct move_fsm *fsm, uint64_t now_ms, const struct hv_progress *progress);
/* Native stream bytes so far, as the stream process counts them. */
void move_fsm_bytes(struct move_fsm *fsm, uint64_t now_ms, uint64_t raw_bytes);
/* Is it the destination's hypervisor that takes no bytes just now, as the stream process sees it?
 * It may have a large guest's memory to make. */
void move_fsm_patient(struct move_fsm *fsm, bool is_patient);
/* STREAMP_END, complete. */
void move_fsm_stream_done(struct move_fsm *fsm, uint64_t now_ms);
/* Source: HVP_SAVE ended with HV_OK: stream written, guest suspended, I/O drained. */
void move_fsm_saved(struct move_fsm *fsm, uint64_t now_ms);
/* Destination: HVP_RESTORE ended with HV_OK: complete and paused. */
void move_fsm_restored(struct move_fsm *fsm, uint64_t now_ms);
/* Destination: the source's HANDOVER was heard. */
void move_fsm_handover(struct move_fsm *fsm, uint64_t now_ms);
/* SWITCH was applied (from any step: the log is right). */
void move_fsm_switched(struct move_fsm *fsm, uint64_t now_ms);
/* This end can't go on. Nothing happens from DECIDING on: then only the log moves it. Returns true
 * if the end is FAILED now. */
bool move_fsm_fail(struct move_fsm *fsm, uint64_t now_ms);

bool move_fsm_is_connected(const struct move_fsm *fsm);
bool move_fsm_is_stream_done(const struct move_fsm *fsm);
bool move_fsm_is_failed(const struct move_fsm *fsm);
/* The step's timeout or the deadline has passed: the sentence why this end must fail now. NULL:
 * not late, or a step that no timeout may end. static */
const char *move_fsm_late(const struct move_fsm *fsm, uint64_t now_ms);
/* The deadline has passed, and the step is one that it may end. */
bool move_fsm_is_overdue(const struct move_fsm *fsm, uint64_t now_ms);
/* DECIDING or FINISHING takes longer than it should: the sentence for status and log, else NULL.
 * static */
const char *move_fsm_waiting(const struct move_fsm *fsm, uint64_t now_ms);
/* When move_fsm_late or move_fsm_waiting can next change from NULL; UINT64_MAX = never. */
uint64_t move_fsm_deadline_ms(const struct move_fsm *fsm);
/* Fills step, hv, rate_kib_s, remaining_kib, eta_ms and elapsed_ms; leaves the rest. The rate is
 * the average of the last two seconds up to now_ms, so that a stalled stream shows as one; eta_ms
 * comes from remaining / (rate - dirty rate), smoothed so that it counts down unless it was wrong
 * for MOVE_ETA_PATIENCE_MS; 0 when it is not known or, said by is_diverging, never comes. */
void move_fsm_progress(const struct move_fsm *fsm, uint64_t now_ms,
                       struct ha_move_progress *ret_progress);
/* Is it time to tell the other members how far it is? A multicast costs each of them: at once for a
 * step (is_step) or another phase of the hypervisor's, else once in MOVE_NEWS_MS. True: they are
 * told now. */
bool move_fsm_is_news(struct move_fsm *fsm, uint64_t now_ms, bool is_step);
/* READY and HANDOVER are said again until they had effect, for they may be lost: after how long
 * this time. Ever longer, as the other end may just be busy, in the guest's pause above all. */
uint32_t move_fsm_repeat_ms(struct move_fsm *fsm);
const char *move_step_name(uint8_t step);

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * A hypervisor without guests, for tests of whoever drives one: domains are records in memory that
 * the gate, its workers and the test share, and every verb can be told to fail, hang or die.
 * Never shipped; the embedded driver is the one without Xen.
 */
#ifndef HAMGR_TESTS_HV_FAKE_H
#define HAMGR_TESTS_HV_FAKE_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "hamgr/hv/hv.h"

#define HV_FAKE_DOMAINS 64u

/* How the next verbs of a kind behave. */
enum hv_fake_manner {
    HV_FAKE_NORMAL = 0,
    HV_FAKE_FAIL, /* HV_FAILED */
    HV_FAKE_HANG, /* until killed */
    HV_FAKE_DIE,  /* the process ends without an outcome */
};

enum hv_fake_verb {
    HV_FAKE_CREATE = 0,
    HV_FAKE_SHUTDOWN,
    HV_FAKE_DESTROY,
    HV_FAKE_SAVE,
    HV_FAKE_RESTORE,
    HV_FAKE_DRAIN,
    HV_FAKE_SAMPLE,
    HV_FAKE_TELL,
    HV_FAKE_RUN,
    HV_FAKE_PAUSE,
    HV_FAKE_LIST,
    HV_FAKE_VERB_COUNT,
};

struct hv_fake_domain {
    bool is_used;
    struct hv_domain d;
    bool is_tracking;     /* dirty tracking is on */
    uint32_t outstanding; /* I/O */
    bool is_write_back;   /* never quiet */
};

struct hv_fake {
    pthread_mutex_t lock; /* process-shared, robust: workers are killed */
    uint32_t next_domid;
    struct hv_fake_domain domains[HV_FAKE_DOMAINS];
    _Atomic int manner[HV_FAKE_VERB_COUNT];
    _Atomic uint32_t run_delay_ms; /* between the start of run and its effect */
    _Atomic uint32_t create_delay_ms;
    _Atomic uint32_t save_bytes_max; /* a save ends by itself after so many; 0 = never */
    _Atomic uint64_t ring_size; /* of the ring's file that a save or restore was given; 0 = none */
    _Atomic int worker_pid;     /* of the worker whose verb began last */
    _Atomic uint32_t begun[HV_FAKE_VERB_COUNT];
    _Atomic uint32_t building_now, building_most; /* creates at the same time */
    _Atomic uint32_t run_count, pause_count, tracking_off_count;
};

/* Shared with every process forked afterwards. NULL without memory. */
struct hv_fake *hv_fake_new(void);
void hv_fake_free(struct hv_fake *fake);
/* A handle on fake: of type worker_open_fn. */
struct hv *hv_fake_open(void *fake, struct ha_err *err);
/* A domain nobody made through the driver; returns its domid. */
uint32_t hv_fake_add(struct hv_fake *fake, const struct hv_label *label,
                     enum hv_domain_state state);
/* The state of domid, 0 if there is none. */
uint8_t hv_fake_state(struct hv_fake *fake, uint32_t domid);
/* The domid of a guest, 0 if there is none. */
uint32_t hv_fake_find(struct hv_fake *fake, struct ha_uuid guest);
void hv_fake_set_io(struct hv_fake *fake, uint32_t domid, uint32_t outstanding, bool is_write_back);

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * The contract of hv.h as tests: what every driver must do, asked through its table alone. What a
 * guest does is seen from outside, through the functions a driver under test brings along.
 */
#ifndef HAMGR_TESTS_CONTRACT_H
#define HAMGR_TESTS_CONTRACT_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "hamgr/hv/hv.h"

#define DEFINITION_MAX 1024u
/* Generous: the machine is shared, and a hang must end as a failure, not as a timeout of ctest. */
#define WAIT_MS (contract->wait_ms)

enum contract_end { ENDS_NEVER = 0, ENDS_POWEROFF, ENDS_REBOOT, ENDS_CRASH };

struct contract_guest {
    const char *name;
    uint32_t number; /* of the guest: its uuid, and where its observer looks */
    uint64_t epoch;
    uint32_t memory_mib;  /* 0: 4 */
    uint32_t dirty_mib_s; /* 0: 1 */
    uint32_t step_ms;     /* 0: 5 */
    enum contract_end end;
};

struct contract_driver {
    const char *name;
    uint32_t wait_ms;     /* for whatever is waited for */
    uint32_t look_ms;     /* between looks: looking must not keep guests from the processor */
    uint32_t least_mib;   /* a guest has no less memory */
    bool suspends_paused; /* a paused guest can be suspended: it is not asked to help */
    /* A node with nothing on it, and its end: 0 or a negative error; skip text if it can't be. */
    const char *(*set_up)(void);
    void (*tear_down)(void);
    /* Another handle, as another process would open. */
    struct hv *(*open)(void);
    size_t (*define)(const struct contract_guest *guest, char *text, size_t capacity);
    /* By guest number, whichever copy: steps made, self-checks over all memory passed since the
     * newest copy began, damages and double runs found. */
    uint64_t (*steps)(uint32_t number);
    bool (*is_checked)(uint32_t number, uint64_t epoch);
    uint64_t (*damages)(uint32_t number);
    /* Offsets in a stream: of a byte of page content that matters, and of the last page's end. */
    size_t (*page_byte)(const uint8_t *stream, size_t size);
    /* Of the 80 bytes at a stream's begin and 20 of its last 88: whose damage is refused, at least.
     * The others say nothing that this driver reads. */
    unsigned refused_min;
};

/* The drivers of this build; a NULL ends the list. */
extern const struct contract_driver *const contract_drivers[];
/* The driver under test, and its handle of the present test. */
extern const struct contract_driver *contract;
extern struct hv *hv;

/* ---- helpers (contract_util.c) ---- */

struct hv_label label_of(const struct contract_guest *guest);
uint64_t memory_kib_of(const struct contract_guest *guest);
/* Creates the guest and returns its domid. */
uint32_t create(const struct contract_guest *guest);
/* Creates, runs, and waits for the first self-check. */
uint32_t start(const struct contract_guest *guest);
/* The domain of that id in a fresh listing; false if it is not there. */
bool find(uint32_t domid, struct hv_domain *ret);
enum hv_domain_state state_of(uint32_t domid);
int domain_count(void);
void assert_state(uint32_t domid, enum hv_domain_state state);
void await_state(uint32_t domid, enum hv_domain_state state);
void await_steps(uint32_t number, uint64_t more);
void await_checked(uint32_t number, uint64_t epoch);
void assert_still(uint32_t number);
void run(uint32_t domid);
/* Pauses; the proof may take more than one try on a crowded machine. */
void pause_domain(uint32_t domid);
void destroy(uint32_t domid);
void sleep_ms(uint32_t ms);
uint64_t now_ms(void);
/* Dirty tracking is off and the guest runs: it makes steps, and a sample works. */
void assert_untouched(uint32_t domid, uint32_t number);

/* A thread that reads a stream end to memory until its end, or up to limit bytes; and one that
 * restores from it. Both with a socket pair whose writing end is `fd`. */
struct sink {
    int fd; /* for the saver; closed by sink_end */
    int read_fd;
    size_t limit;
    uint8_t *data;
    size_t size, capacity;
    pthread_t thread;
};
void sink_begin(struct sink *s, size_t limit);
void sink_end(struct sink *s);

struct arrival {
    int fd; /* for the saver; closed by arrival_end */
    int read_fd;
    struct contract_guest guest;
    uint32_t domid;
    enum hv_outcome outcome;
    struct ha_err err;
    pthread_t thread;
};
void arrival_begin(struct arrival *a, const struct contract_guest *guest);
void arrival_end(struct arrival *a);

struct hv_save_params save_to(int fd);
/* Restores from bytes in memory. */
enum hv_outcome restore_bytes(const struct contract_guest *guest, const uint8_t *data, size_t size,
                              uint32_t *ret_domid, struct ha_err *err);

int set_up_test(void **state);
int tear_down_test(void **state);

/* ---- the tests of each file; a NULL name ends a list ---- */
extern const struct CMUnitTest life_tests[];
extern const size_t life_test_count;
extern const struct CMUnitTest save_tests[];
extern const size_t save_test_count;
extern const struct CMUnitTest fault_tests[];
extern const size_t fault_test_count;

#endif

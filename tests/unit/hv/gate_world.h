/* SPDX-License-Identifier: Apache-2.0
 *
 * The world around a gate under test: a directory of its own, the gate in a process of its own over
 * the fake driver, and the test as hamgrd (one connection) and as the keeper (page and socket).
 * Every wait is for an event and bounded by GATE_WORLD_WAIT_MS.
 */
#ifndef HAMGR_TESTS_GATE_WORLD_H
#define HAMGR_TESTS_GATE_WORLD_H

#include "hamgr/ipc/hvproto.h"
#include "hamgr/ipc/keeperproto.h"
#include "tests/lib/hv_fake.h"

#define GATE_WORLD_WAIT_MS 5000
#define GATE_WORLD_EVENTS  256

struct gate_world {
    char dir[64];
    struct hv_fake *fake;
    struct keeper_page *page;
    int keeper_listen_fd;
    int keeper_fd;
    int fd; /* to the gate */
    pid_t gate_pid;
    uint64_t last_id;
    uint32_t worker_max;
    uint32_t verb_max_ms;
    /* Kept while waiting for something else. */
    struct hvp_done done[GATE_WORLD_EVENTS];
    uint64_t done_id[GATE_WORLD_EVENTS];
    unsigned done_count;
    struct hvp_gate gate; /* the newest told */
    unsigned gate_count, changed_count, progress_count, domains_count;
    struct hvp_domains domains;
    struct hvp_welcome welcome;
};

struct gate_world *gate_world_new(void);
void gate_world_free(struct gate_world *w);
/* Starts the gate, connects, says hello. */
void gate_world_start(struct gate_world *w);
/* The same without hello. */
void gate_world_start_silently(struct gate_world *w);
/* Ends the gate's process with a signal and waits for it. */
void gate_world_kill(struct gate_world *w, int number);
void gate_world_connect(struct gate_world *w);
void gate_world_hello(struct gate_world *w, bool is_disarmed, bool is_frozen);
/* That of a hamgrd which has just started: what it says is of a time that may be over. */
void gate_world_stale_hello(struct gate_world *w, bool is_disarmed, bool is_frozen,
                            uint64_t generation);

uint64_t gate_world_now_ns(void);
/* What the keeper publishes. */
void gate_world_lease(struct gate_world *w, uint64_t end_ns, bool is_quarantined, bool is_armed);
/* The next proof; returns its time. Fails the test if none comes within timeout_ms. */
uint64_t gate_world_proof(struct gate_world *w, int timeout_ms);
/* True if no proof comes for so long. */
bool gate_world_no_proof(struct gate_world *w, int timeout_ms);

/* Sends a request and returns its id. */
uint64_t gate_world_send(struct gate_world *w, uint16_t type, const struct ha_writer *body, int fd);
uint64_t gate_world_ask(struct gate_world *w, uint16_t type, uint8_t guest, uint64_t epoch,
                        uint32_t timeout_ms);
uint64_t gate_world_ask_create(struct gate_world *w, uint16_t type, uint8_t guest, uint64_t epoch,
                               int fd);
/* With a ring beside it: a file of that size. */
#define GATE_WORLD_RING_BYTES 12345
uint64_t gate_world_ask_save(struct gate_world *w, uint8_t guest, uint64_t epoch, int fd);
/* The reply to a request. */
struct hvp_done gate_world_await(struct gate_world *w, uint64_t id);
/* True if the reply is there already or comes within timeout_ms. */
bool gate_world_has_reply(struct gate_world *w, uint64_t id, int timeout_ms);
/* ask + await. */
struct hvp_done gate_world_do(struct gate_world *w, uint16_t type, uint8_t guest, uint64_t epoch);
/* A listing. */
const struct hvp_domains *gate_world_list(struct gate_world *w);
/* Reads packets until the condition holds; fails the test otherwise. */
void gate_world_until(struct gate_world *w, bool (*holds)(struct gate_world *w, void *data),
                      void *data, const char *what);

struct ha_uuid gate_world_uuid(uint8_t seed);
struct hv_label gate_world_label(uint8_t guest, uint64_t epoch);

#endif

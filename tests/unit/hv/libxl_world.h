/* SPDX-License-Identifier: Apache-2.0
 *
 * For tests of save and restore of the xen driver: a libxl that reads and writes a stream as 4.17
 * does. The end of the stream is a read like any other, and what fails before the helper runs ends
 * the process. The helper is a child that moves an image. One domain, one driver.
 */
#ifndef TESTS_UNIT_HV_LIBXL_WORLD_H
#define TESTS_UNIT_HV_LIBXL_WORLD_H

#include "hamgr/hv/xen/work.h"

#define HEAD_SIZE  24u
#define IMAGE_SIZE 5000u
#define EMU_SIZE   (1u << 20) /* more than a socket holds */
#define EMU_TYPE   3u
#define TAIL_AT    (HEAD_SIZE + IMAGE_SIZE)
#define END_AT     (TAIL_AT + 8 + EMU_SIZE)
#define SIZE       (END_AT + 8)

/* The stream that is read and written; tests change it. */
extern uint8_t stream[SIZE];

struct world_domain {
    uint32_t domid;
    uint8_t handle[16];
    bool is_there, is_paused, is_suspended;
};
extern struct world_domain dom;

/* What a restore's helper does: lets libxl go on early or not, and how that ends. */
enum world_mover { NOT_EARLY, EARLY, EARLY_FAILS, EARLY_DIES };
extern enum world_mover mover;

/* What libxc's receiver says as an error, and goes on; NULL: nothing. */
extern const char *receiver_says;
/* The flags of the newest save. */
extern int save_flags;

extern struct hv_xen x;
extern char dir[64];
extern const struct hv_label LABEL;

int set_up(void **state);
int tear_down(void **state);

/* Has the newest operation ended, as libxl sees it? */
bool libxl_is_done(void);

void write_all(int fd, const uint8_t *bytes, size_t size, size_t step);
/* A process that writes the first size bytes of the stream, step at a time, and is gone. */
int begin_pour(size_t size, size_t step, pid_t *ret_pid);
/* With a helper of ours a PV guest, else a PVH guest. */
enum hv_outcome restore_from(int fd, hv_progress_fn progress, void *user, struct ha_err *err);
enum hv_outcome restore(size_t size, size_t step, struct ha_err *err);
void assert_refused(size_t size, const char *word);
/* As a worker does when it is told to stop: user is the stream's int. */
void take_away(void *user, const struct hv_progress *progress);

#endif

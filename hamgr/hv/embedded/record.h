/* SPDX-License-Identifier: Apache-2.0
 *
 * A domain's record on disk: written as a whole file by rename, its phase overwritten in place.
 */
#ifndef HAMGR_HV_EMBEDDED_RECORD_H
#define HAMGR_HV_EMBEDDED_RECORD_H

#include "hamgr/hv/embedded/guestabi.h"

/* Seals record and replaces the file in directory dir_fd. Returns 0 or a negative error. */
int emb_record_write(int dir_fd, struct emb_record *record, struct ha_err *err);
/* Reads and checks. -ENOENT: there is none; -HA_E_CORRUPT: it proves nothing. */
int emb_record_read(int dir_fd, struct emb_record *ret, struct ha_err *err);
/* Overwrites the phase. Returns 0 or a negative error. */
int emb_record_set_phase(int dir_fd, enum emb_phase phase, struct ha_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * Bounds of everything that grows. Config or input beyond a limit is refused where it is parsed,
 * with the limit in the message; inside, arrays of these sizes can't overflow.
 */
#ifndef HAMGR_BASE_LIMITS_H
#define HAMGR_BASE_LIMITS_H

#define HA_NODES_MAX      32u
#define HA_GUESTS_MAX     4096u
#define HA_NAME_MAX       64u    /* bytes with the final NUL: node and guest names */
#define HA_ADDR_MAX       64u    /* bytes with the final NUL: a numeric IP address */
#define HA_TEXT_MAX       256u   /* bytes with the final NUL: one sentence for an operator */
#define HA_DEFINITION_MAX 65536u /* bytes of one guest definition */
#define HA_ENTRY_MAX      (HA_DEFINITION_MAX + 1024u) /* bytes of one log entry's body */
#define HA_CHUNK_MAX      32768u /* bytes of one state-transfer chunk: heartbeats go between them */
#define HA_IPC_MAX        131072u /* bytes of one local seqpacket message */
#define HA_TICKETS_MAX    256u    /* migrations in flight in the whole cluster */
#define HA_DEVICES_MAX    32u     /* fence devices one node may know */

#endif

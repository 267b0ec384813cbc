/* SPDX-License-Identifier: Apache-2.0
 *
 * Why something was decided or refused: one table for logs, events, `hactl explain` and every
 * refusal, so that the same condition always has the same words. X(symbol, number, machine name,
 * sentence, smallest fix or ""). Numbers are stored in the log: append only.
 */
#ifndef HAMGR_CORE_REASON_H
#define HAMGR_CORE_REASON_H

#include <stdint.h>

#define HA_REASONS(X)                                                                              \
    X(HA_REASON_NONE, 0, "none", "", "")                                                           \
    X(HA_REASON_OPERATOR, 1, "operator", "an operator asked for it", "")                           \
    X(HA_REASON_PLACEMENT, 2, "placement", "the planner placed it here", "")                       \
    X(HA_REASON_RECOVERY, 3, "recovery", "its owner was fenced", "")                               \
    X(HA_REASON_RESTART, 4, "restart", "it ended by itself and is wanted", "")                     \
    X(HA_REASON_DRAIN, 5, "drain", "its node is in maintenance", "")                               \
    X(HA_REASON_SHUTDOWN, 6, "shutdown", "its node is shutting down", "")                          \
    X(HA_REASON_JOINED, 7, "joined", "the node joined the view", "")                               \
    X(HA_REASON_ABSENT, 8, "absent", "the node left the view without LEAVE", "")                   \
    X(HA_REASON_OBSERVED, 9, "observed", "the owner's hypervisor reports it", "")                  \
    X(HA_REASON_STREAM_FAILED, 10, "stream-failed", "the migration stream failed", "")             \
    X(HA_REASON_DEADLINE, 11, "deadline", "the migration passed its deadline", "")                 \
    X(HA_REASON_FENCED_END, 12, "fenced-end", "an end of the migration was fenced", "")            \
    X(HA_REASON_NO_SUCH_GUEST, 100, "no-such-guest", "there is no such guest",                     \
      "hactl guest list shows the names")                                                          \
    X(HA_REASON_NO_SUCH_NODE, 101, "no-such-node", "there is no such node",                        \
      "hactl status shows the names")                                                              \
    X(HA_REASON_GUEST_EXISTS, 102, "guest-exists", "a guest of that name or uuid exists",          \
      "choose another name")                                                                       \
    X(HA_REASON_NODE_EXISTS, 103, "node-exists", "a node of that name or id exists",               \
      "choose another name or id")                                                                 \
    X(HA_REASON_LIMIT, 104, "limit", "a fixed limit of this version is reached", "")               \
    X(HA_REASON_STALE_EPOCH, 105, "stale-epoch", "the guest has moved on to another epoch",        \
      "look again: hactl guest show")                                                              \
    X(HA_REASON_STALE_INCARNATION, 106, "stale-incarnation",                                       \
      "the node is back under another incarnation", "look again: hactl status")                    \
    X(HA_REASON_STALE_TICKET, 107, "stale-ticket", "that migration is over", "")                   \
    X(HA_REASON_WRONG_PHASE, 108, "wrong-phase", "the guest is in a phase that does not allow it", \
      "wait until the operation in flight has ended: hactl explain")                               \
    X(HA_REASON_WRONG_OWNER, 109, "wrong-owner", "another node owns the guest", "")                \
    X(HA_REASON_NOT_MEMBER, 110, "not-member", "the node is not in the view",                      \
      "bring it back or choose another node")                                                      \
    X(HA_REASON_NOT_ARMED, 111, "not-armed", "the node's watchdog is not armed",                   \
      "look at hamgr-watchdog on that node")                                                       \
    X(HA_REASON_WITNESS, 112, "witness", "the node is a witness and runs no guests",               \
      "choose another node")                                                                       \
    X(HA_REASON_FROZEN, 113, "frozen", "the node is frozen", "restart hamgrd there, or arm")       \
    X(HA_REASON_MAINTENANCE, 114, "maintenance", "the node is in maintenance",                     \
      "hactl maintenance NODE off")                                                                \
    X(HA_REASON_NO_MEMORY, 115, "no-memory", "the node has too little free memory",                \
      "free memory there or choose another node")                                                  \
    X(HA_REASON_NOT_UNCLEAN, 116, "not-unclean", "the node is not UNCLEAN", "")                    \
    X(HA_REASON_DISARMED, 117, "disarmed", "the cluster is disarmed", "hactl arm")                 \
    X(HA_REASON_OWNS_GUESTS, 118, "owns-guests", "the node still owns guests",                     \
      "hactl maintenance NODE on drains it")                                                       \
    X(HA_REASON_TICKET_OPEN, 119, "ticket-open", "a migration from or to it is in flight",         \
      "wait for it or hactl cancel")                                                               \
    X(HA_REASON_SAME_NODE, 120, "same-node", "the guest is already there", "")                     \
    X(HA_REASON_NOT_WANTED, 121, "not-wanted", "the guest is wanted stopped", "hactl guest start") \
    X(HA_REASON_FAILED_LIMIT, 122, "failed-limit", "the guest reached its restart limit",          \
      "mend it, then hactl guest start")                                                           \
    X(HA_REASON_IS_VOTER, 123, "is-voter", "the node is a voter",                                  \
      "hactl cluster remove-node takes its vote first")                                            \
    X(HA_REASON_ALREADY, 124, "already", "it is so already", "")                                   \
    X(HA_REASON_OWNER_UNCLEAN, 125, "owner-unclean", "its owner is gone and not yet proven dead",  \
      "wait for fencing, or hactl confirm-fenced NODE after looking")                              \
    X(HA_REASON_NO_NODE, 126, "no-node", "no node can take it", "hactl explain names each reason") \
    X(HA_REASON_NO_QUORUM, 127, "no-quorum", "no view is open here",                               \
      "bring back nodes until most voters hear each other")                                        \
    X(HA_REASON_NOT_PROTECTED, 128, "not-protected",                                               \
      "the guest is not protected: it is not restarted by itself", "hactl guest start")            \
    X(HA_REASON_INIT_TWICE, 129, "init-twice", "the cluster exists already", "")                   \
    X(HA_REASON_BAD_IDENTITY, 130, "bad-identity",                                                 \
      "another machine or store comes under this node's id",                                       \
      "remove the node and add it again, or give the machine its own id")                          \
    X(HA_REASON_BAD_VALUE, 131, "bad-value", "a value is missing or out of its range",             \
      "look at the limits: man hactl")                                                             \
    X(HA_REASON_IS_MEMBER, 132, "is-member", "the node is in the view", "stop hamgrd there first") \
    X(HA_REASON_STALE_KEEPER, 133, "stale-keeper",                                                 \
      "the watchdog was seen armed before the last disarm, arm, freeze or unfreeze", "")           \
    X(HA_REASON_IS_WANTED, 134, "is-wanted", "the guest is wanted started", "hactl guest stop")    \
    X(HA_REASON_HV_NOT_READY, 135, "hv-not-ready", "hamgr-hv on the node does not answer",         \
      "look at hamgr-hv on that node")                                                             \
    X(HA_REASON_SHUTTING_DOWN, 136, "shutting-down", "the node is shutting down",                  \
      "choose another node")                                                                       \
    X(HA_REASON_FENCE_WANTED, 137, "fence-wanted", "an operator wants the node fenced",            \
      "choose another node, or restart hamgrd there: that takes the wish back")                    \
    X(HA_REASON_BACK_OFF, 138, "back-off", "it failed and waits before the next attempt",          \
      "wait, or mend it and hactl guest start")                                                    \
    X(HA_REASON_BUSY, 139, "busy", "the node has as many operations in flight as allowed",         \
      "wait until some have ended")                                                                \
    X(HA_REASON_STILL_THERE, 140, "still-there", "the hypervisor still lists a copy", "")          \
    X(HA_REASON_NOT_OURS, 141, "not-ours", "the log does not give this copy to this node", "")     \
    X(HA_REASON_SETTLING, 142, "settling",                                                         \
      "nodes that joined a moment ago are still coming up and shall get their share",              \
      "wait: at most 2 s after the last of them joined")                                           \
    X(HA_REASON_CANT_RUN, 143, "cant-run", "the node lacks what the guest needs",                  \
      "hactl doctor names what, and how to mend it")

enum ha_reason {
#define X(symbol, number, name, text, fix) symbol = number,
    HA_REASONS(X)
#undef X
};

/* static strings; "unknown" / "" for numbers this build does not know */
const char *ha_reason_name(uint16_t reason);
const char *ha_reason_text(uint16_t reason);
const char *ha_reason_fix(uint16_t reason);

#endif

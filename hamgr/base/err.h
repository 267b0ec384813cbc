/* SPDX-License-Identifier: Apache-2.0
 *
 * Errors: a code for programs and a sentence for people. Functions return 0 or a negative code
 * (-errno or -HA_E_*); those that can say more take `struct ha_err *err` last (may be NULL). Each
 * layer puts its own words in front: "migrate db01: connect n2: TLS: certificate has expired".
 */
#ifndef HAMGR_BASE_ERR_H
#define HAMGR_BASE_ERR_H

#include <stdarg.h>
#include <stdbool.h>

#include "hamgr/base/limits.h"

/* X(symbol, number, machine name, text). Numbers start above every errno. */
#define HA_ERRORS(X)                                                                               \
    X(HA_E_USAGE, 1001, "usage", "the request is malformed")                                       \
    X(HA_E_REFUSED, 1002, "refused", "the request can't be granted now")                           \
    X(HA_E_NO_QUORUM, 1003, "no-quorum", "no quorum of voters hears this node")                    \
    X(HA_E_UNREACHABLE, 1004, "unreachable", "the daemon does not answer")                         \
    X(HA_E_UNKNOWN, 1005, "outcome-unknown", "it may or may not have happened")                    \
    X(HA_E_CORRUPT, 1006, "corrupt", "stored or received data is damaged")                         \
    X(HA_E_VERSION, 1007, "version", "the peer speaks another version")                            \
    X(HA_E_LIMIT, 1008, "limit", "a fixed limit is reached")                                       \
    X(HA_E_NOT_FOUND, 1009, "not-found", "there is no such thing")                                 \
    X(HA_E_EXISTS, 1010, "exists", "it exists already")                                            \
    X(HA_E_STALE, 1011, "stale", "the state has moved on")                                         \
    X(HA_E_TIMEOUT, 1012, "timeout", "no answer in time")                                          \
    X(HA_E_CANCELLED, 1013, "cancelled", "cancelled")                                              \
    X(HA_E_PEER, 1014, "peer", "the peer broke the protocol")                                      \
    X(HA_E_AUTH, 1015, "auth", "the peer is not who it should be")                                 \
    X(HA_E_NO_MEMORY, 1016, "no-memory", "not enough memory")

enum ha_error_code {
#define X(symbol, number, name, text) symbol = number,
    HA_ERRORS(X)
#undef X
};

struct ha_err {
    int code; /* 0 = no error recorded, else a positive errno or HA_E_* */
    char text[HA_TEXT_MAX];
};

/* The machine name of code (positive or negative), "errno-N" style names excepted: "errno". static
 */
const char *ha_err_name(int code);
/* The general sentence for code (HA_E_* only; "system error" otherwise). static */
const char *ha_err_text(int code);
/* Records code (sign ignored) and a sentence; returns -code, so `return ha_err_set(...)` works. */
int ha_err_set(struct ha_err *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Puts "words: " in front of a recorded text, truncating at the end. Returns -err->code. */
int ha_err_prefix(struct ha_err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif

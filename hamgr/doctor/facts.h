/* SPDX-License-Identifier: Apache-2.0
 *
 * What a node knows about itself that `hactl doctor` judges: gathered by its own processes, told to
 * whichever node was asked. A fact is a number, a text, or one of a list; each may be unknown, and
 * unknown is never taken for healthy. On the wire each fact carries its number, so nodes of
 * different builds understand what they have in common.
 *
 * Pure: plain data and its encoding.
 */
#ifndef HAMGR_DOCTOR_FACTS_H
#define HAMGR_DOCTOR_FACTS_H

#include <stdbool.h>
#include <stdint.h>

#include "hamgr/base/bytes.h"
#include "hamgr/base/limits.h"

/* X(symbol, number on the wire, name in JSON): append only. */
#define HA_FACT_NUMBERS(X)                                                                         \
    X(HA_FACT_WALL_MS, 1, "wall_ms")             /* its clock when it answered */                  \
    X(HA_FACT_IS_XEN_WANTED, 2, "is_xen_wanted") /* hamgr.conf says hypervisor = xen */            \
    X(HA_FACT_IS_WITNESS, 3, "is_witness")                                                         \
    X(HA_FACT_IS_HV_READY, 4, "is_hv_ready") /* hamgr-hv answers */                                \
    X(HA_FACT_IS_LOOKED, 5, "is_looked")     /* it looked at its host; else most is unknown */     \
    X(HA_FACT_IS_XEN, 6, "is_xen")           /* the kernel runs on Xen */                          \
    X(HA_FACT_IS_DOM0, 7, "is_dom0")                                                               \
    X(HA_FACT_XEN_VERSION, 8, "xen_version") /* major << 16 | minor */                             \
    X(HA_FACT_HAS_SHADOW, 9, "has_shadow")                                                         \
    X(HA_FACT_HAS_HAP, 10, "has_hap")                                                              \
    X(HA_FACT_IS_DOM0_FIXED, 11, "is_dom0_fixed") /* dom0_mem with max: on Xen's command line */   \
    X(HA_FACT_HAS_AUTOBALLOON, 12, "has_autoballoon")                                              \
    X(HA_FACT_HAS_KERNEL_CONFIG, 13, "has_kernel_config")                                          \
    X(HA_FACT_IS_KEEPER_KNOWN, 14, "is_keeper_known") /* hamgr-watchdog answers */                 \
    X(HA_FACT_IS_ARMED, 15, "is_armed")                                                            \
    X(HA_FACT_WATCHDOG_MS, 16, "watchdog_ms")                                                      \
    X(HA_FACT_HAS_SOFTDOG, 17, "has_softdog")                                                      \
    X(HA_FACT_HAS_TIME_SYNC, 18, "has_time_sync")                                                  \
    X(HA_FACT_SLEW_PPM, 19, "slew_ppm") /* chrony's limit */                                       \
    X(HA_FACT_CERT_END_S, 20, "cert_end_s")                                                        \
    X(HA_FACT_CA_END_S, 21, "ca_end_s")                                                            \
    X(HA_FACT_IS_CERT_NAMED, 22, "is_cert_named")     /* its SAN is the node's name */             \
    X(HA_FACT_IS_CERT_TRUSTED, 23, "is_cert_trusted") /* signed by the CA here */                  \
    X(HA_FACT_IS_CERT_BOTH, 24, "is_cert_both")       /* good as client and as server */           \
    X(HA_FACT_KEY_MODE, 25, "key_mode")                                                            \
    X(HA_FACT_TOKEN_MS, 26, "token_ms")                                                            \
    X(HA_FACT_CONSENSUS_MS, 27, "consensus_ms")                                                    \
    X(HA_FACT_LEASE_MS, 28, "lease_ms")                                                            \
    X(HA_FACT_LINK_COUNT, 29, "link_count") /* of corosync */                                      \
    X(HA_FACT_AUTHKEY_MODE, 30, "authkey_mode")                                                    \
    X(HA_FACT_IS_DEVICE_DOG, 31,                                                                   \
      "is_device_dog") /* the watchdog is a device, not a test's socket */                         \
    X(HA_FACT_IS_SWAP_KNOWN, 32, "is_swap_known")       /* of dom0: what there is is listed */     \
    X(HA_FACT_HAS_XEN_WATCHDOG, 33, "has_xen_watchdog") /* watchdog on Xen's command line */       \
    X(HA_FACT_IS_XEN_DOG, 34, "is_xen_dog") /* the device is Xen's timer of dom0 (xen_wdt) */

#define HA_FACT_TEXTS(X)                                                                           \
    X(HA_TEXT_VERSION, 1, "version")       /* of hamgr */                                          \
    X(HA_TEXT_HYPERVISOR, 2, "hypervisor") /* as the driver names it */                            \
    X(HA_TEXT_KERNEL, 3, "kernel")                                                                 \
    X(HA_TEXT_LOOK_WHY, 4, "look_why")         /* why it could not look */                         \
    X(HA_TEXT_KEEPER, 5, "keeper")             /* why not armed, else the devices */               \
    X(HA_TEXT_CERT_WHY, 6, "cert_why")         /* why there is none to judge */                    \
    X(HA_TEXT_COROSYNC_WHY, 7, "corosync_why") /* what hamgr refuses of its configuration */       \
    X(HA_TEXT_ALARM, 8, "alarm")                                                                   \
    X(HA_TEXT_CPU_PV, 9, "cpu_pv") /* hex words of what PV guests are given */                     \
    X(HA_TEXT_CPU_HVM, 10, "cpu_hvm")                                                              \
    X(HA_TEXT_CPU_PV_MAX, 11, "cpu_pv_max") /* and of what they may have that come from others */  \
    X(HA_TEXT_CPU_HVM_MAX, 12, "cpu_hvm_max")

/* X(symbol, number, name): what subject, value and text say stands beside each. */
#define HA_FACT_LISTS(X)                                                                           \
    X(HA_LIST_OPTION_MISSING, 1, "option_missing") /* subject CONFIG_...; value 1 = needed */      \
    X(HA_LIST_SCHEDULER, 2, "scheduler")           /* subject sda; text bfq */                     \
    X(HA_LIST_DEVICE, 3, "fence_device")           /* subject name; value proven, wall ms; text */ \
                                                   /* " n1 n2 " or "*" */                          \
    X(HA_LIST_VOLATILE, 4, "volatile")             /* subject path on a file system in memory */   \
    X(HA_LIST_SWAP, 5, "swap") /* subject device or file; value KiB; text local, shared, memory */ \
    X(HA_LIST_FENCE_LEVEL, 6, "fence_level") /* of a fence_device: subject and text as there */

#define X(symbol, number, name) symbol = number,
enum ha_fact_number { HA_FACT_NUMBERS(X) };
enum ha_fact_text { HA_FACT_TEXTS(X) };
enum ha_fact_list { HA_FACT_LISTS(X) };
#undef X

#define HA_FACT_NUMBERS_MAX 40u /* numbers of facts are below these */
#define HA_FACT_TEXTS_MAX   14u
#define HA_FACT_ITEMS_MAX   128u
#define HA_FACT_TEXT_MAX    128u
#define HA_FACT_SUBJECT_MAX 96u
/* Never more than this when encoded. */
#define HA_FACTS_BYTES_MAX                                                                         \
    (8u + HA_FACT_NUMBERS_MAX * 10u + HA_FACT_TEXTS_MAX * (HA_FACT_TEXT_MAX + 6u) +                \
     HA_FACT_ITEMS_MAX * (HA_FACT_SUBJECT_MAX + HA_FACT_TEXT_MAX + 18u))

struct ha_fact_item {
    uint16_t list; /* enum ha_fact_list */
    uint64_t value;
    char subject[HA_FACT_SUBJECT_MAX];
    char text[HA_FACT_TEXT_MAX];
};

struct ha_facts {
    bool is_known[HA_FACT_NUMBERS_MAX];
    uint64_t number[HA_FACT_NUMBERS_MAX];
    char text[HA_FACT_TEXTS_MAX][HA_FACT_TEXT_MAX]; /* "" = unknown */
    uint32_t item_count;
    bool is_cut; /* items beyond the limit were left out */
    struct ha_fact_item items[HA_FACT_ITEMS_MAX];
};

void ha_facts_set(struct ha_facts *facts, enum ha_fact_number fact, uint64_t value);
/* Cut to fit. */
void ha_facts_say(struct ha_facts *facts, enum ha_fact_text fact, const char *text);
void ha_facts_add(struct ha_facts *facts, enum ha_fact_list list, const char *subject,
                  uint64_t value, const char *text);
/* True if it is known and not 0; if it is known and 0. */
bool ha_facts_is(const struct ha_facts *facts, enum ha_fact_number fact);
bool ha_facts_is_not(const struct ha_facts *facts, enum ha_fact_number fact);
/* Adds what `from` knows to facts, over what they knew. */
void ha_facts_merge(struct ha_facts *facts, const struct ha_facts *from);

void ha_facts_encode(struct ha_writer *w, const struct ha_facts *facts);
/* What this build does not know is skipped. Reads up to what it wrote; r->failed if malformed. */
void ha_facts_decode(struct ha_reader *r, struct ha_facts *ret);

/* The name in JSON of a fact's number, NULL for none. static */
const char *ha_fact_number_name(uint16_t number);
const char *ha_fact_text_name(uint16_t number);
const char *ha_fact_list_name(uint16_t number);

#endif

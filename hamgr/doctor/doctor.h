/* SPDX-License-Identifier: Apache-2.0
 *
 * What is wrong with this cluster, or will be on the day it matters: facts of all nodes in,
 * findings out. Each finding says what was found, why it matters and exactly how to mend it. What
 * could not be found out is a finding as well; what does not apply here is a note.
 *
 * Pure: no clock (the caller gives the time), no I/O, no allocation.
 */
#ifndef HAMGR_DOCTOR_DOCTOR_H
#define HAMGR_DOCTOR_DOCTOR_H

#include "hamgr/core/runtime.h"
#include "hamgr/doctor/facts.h"

enum ha_severity {
    HA_SEVERITY_NOTE = 1, /* to be known: nothing is wrong */
    HA_SEVERITY_WARNING,  /* works now, costs something or will */
    HA_SEVERITY_ERROR,    /* guests are not safe, or something can't work */
};

/* X(symbol, name, why it matters) */
#define HA_FINDINGS(X)                                                                             \
    X(HA_FINDING_NODE_SILENT, "node-silent",                                                       \
      "nothing is known of a node that does not answer: it may not be able to take over")          \
    X(HA_FINDING_HV_SILENT, "hv-silent",                                                           \
      "hamgr-hv runs, pauses and stops the guests; without it the node can take none")             \
    X(HA_FINDING_NOT_LOOKED, "not-looked", "most of what doctor checks is not known of this node") \
    X(HA_FINDING_CUT, "cut", "more was found than one answer holds")                               \
    X(HA_FINDING_ALARM, "alarm", "the node says so itself")                                        \
    X(HA_FINDING_EMBEDDED, "embedded",                                                             \
      "it runs the built-in hypervisor for trying hamgr: checks of Xen, its kernel and its "       \
      "processors do not apply")                                                                   \
    X(HA_FINDING_NOT_XEN, "not-xen", "guests of Xen can't run here")                               \
    X(HA_FINDING_NOT_DOM0, "not-dom0", "only dom0 may start and stop guests")                      \
    X(HA_FINDING_XEN_OLD, "xen-old", "hamgr was built for and tried with Xen 4.17")                \
    X(HA_FINDING_XENS_DIFFER, "xens-differ",                                                       \
      "Xen takes guests from the same or an older version: moves back are refused or fail")        \
    X(HA_FINDING_NO_PV_LIVE, "no-pv-live",                                                         \
      "without shadow paging Xen can't log what a PV guest writes: it is suspended for its whole " \
      "move")                                                                                      \
    X(HA_FINDING_NO_HAP, "no-hap", "without HAP, PVH and HVM guests are slow, or can't move live") \
    X(HA_FINDING_KERNEL_UNKNOWN, "kernel-unknown", "what dom0's kernel can do can't be checked")   \
    X(HA_FINDING_KERNEL_OPTION, "kernel-option",                                                   \
      "guests' disks, networks and control need these drivers in dom0's kernel")                   \
    X(HA_FINDING_CPU_DIFFERS, "cpu-differs",                                                       \
      "a guest uses what the processor it started on offers: where something of that is missing "  \
      "it can't go on, so such a move is refused")                                                 \
    X(HA_FINDING_CPU_UNKNOWN, "cpu-unknown",                                                       \
      "whether guests can move between the nodes' processors can't be told before it is tried")    \
    X(HA_FINDING_DOM0_MEMORY, "dom0-memory",                                                       \
      "a dom0 without fixed memory gives it away to guests, and memory that failover counts on "   \
      "is not there")                                                                              \
    X(HA_FINDING_AUTOBALLOON, "autoballoon",                                                       \
      "xl would take memory from dom0 for a guest, behind hamgr's back")                           \
    X(HA_FINDING_OVERCOMMIT, "overcommit",                                                         \
      "more memory is promised than the node has: it takes no guest until that is mended")         \
    X(HA_FINDING_NO_SWAP, "no-swap",                                                               \
      "dom0's memory is fixed, and small: without swap its kernel kills a process, maybe one "     \
      "of hamgr's, when it runs short")                                                            \
    X(HA_FINDING_SWAP_SHARED, "swap-shared",                                                       \
      "when that storage stalls or the network is cut, dom0's processes wait for their own "       \
      "memory: guests can't be moved or stopped then, and the watchdog may reset the host")        \
    X(HA_FINDING_SCHEDULER, "scheduler",                                                           \
      "the guests order their own I/O: an elevator in dom0 delays it and lets one guest starve "   \
      "another")                                                                                   \
    X(HA_FINDING_VOLATILE, "volatile",                                                             \
      "what a guest keeps there is lost with the host, and no other node has it")                  \
    X(HA_FINDING_KEEPER_SILENT, "keeper-silent",                                                   \
      "without its watchdog a node that is cut off can't be counted on to stop its guests")        \
    X(HA_FINDING_NOT_ARMED, "not-armed",                                                           \
      "a node whose watchdog is not armed gets no guests, and its own are not restarted by time")  \
    X(HA_FINDING_SOFTDOG, "softdog", "a software watchdog dies with the kernel it should guard")   \
    X(HA_FINDING_XEN_WATCHDOG, "xen-watchdog",                                                     \
      "a hypervisor that hangs stops all its guests; its own watchdog resets the host then, and "  \
      "says on the console where it hung")                                                         \
    X(HA_FINDING_NO_TIME_SYNC, "no-time-sync",                                                     \
      "times in hactl events, in certificates and in the guests drift apart")                      \
    X(HA_FINDING_CLOCKS_DIFFER, "clocks-differ",                                                   \
      "back-offs, certificates and hactl events go by the wall clock; guests see a jump when "     \
      "they "                                                                                      \
      "move")                                                                                      \
    X(HA_FINDING_SLEW, "slew",                                                                     \
      "clocks of guests follow dom0's: steered this fast they run wrong for a while (leases do "   \
      "not: they use the raw clock)")                                                              \
    X(HA_FINDING_CERT_NONE, "cert-none", "no guest can move to or from this node")                 \
    X(HA_FINDING_CERT_ENDED, "cert-ended", "no guest can move to or from this node")               \
    X(HA_FINDING_CERT_ENDS, "cert-ends", "from then on no guest can move to or from this node")    \
    X(HA_FINDING_CERT_NAME, "cert-name", "its peers refuse a certificate of another name")         \
    X(HA_FINDING_CERT_TRUST, "cert-trust", "its peers refuse a certificate of another CA")         \
    X(HA_FINDING_CERT_USE, "cert-use", "a node is client and server of migrations")                \
    X(HA_FINDING_KEY_MODE, "key-mode", "who has the key can pass for this node")                   \
    X(HA_FINDING_COROSYNC, "corosync", "hamgrd stays outside the cluster until this is mended")    \
    X(HA_FINDING_TOKENS_DIFFER, "tokens-differ",                                                   \
      "leases are computed from corosync's times: they must be the same everywhere")               \
    X(HA_FINDING_ONE_LINK, "one-link", "a second network keeps a node in when one fails")          \
    X(HA_FINDING_AUTHKEY_MODE, "authkey-mode", "who has corosync's key can steer the cluster")     \
    X(HA_FINDING_NO_FENCE, "no-fence",                                                             \
      "when the node is lost its guests wait until its watchdog must have fired, instead of "      \
      "until "                                                                                     \
      "it is switched off; a node that was not armed waits for you")                               \
    X(HA_FINDING_FENCE_UNPROVEN, "fence-unproven",                                                 \
      "a device that was never tried fails on the day it is needed")                               \
    X(HA_FINDING_FENCES_DIFFER, "fences-differ",                                                   \
      "off is what all devices prove that anybody names for a level: one that only a lost node "   \
      "can drive holds guests up, and without one that nobody remembers it is no proof")           \
    X(HA_FINDING_VERSIONS_DIFFER, "versions-differ",                                               \
      "hamgrds of two versions do not understand each other fully")                                \
    X(HA_FINDING_FEW_VOTERS, "few-voters",                                                         \
      "with fewer than three voters one lost node stops the cluster")                              \
    X(HA_FINDING_EVEN_VOTERS, "even-voters",                                                       \
      "an even number of voters survives no more failures than one less, and can split in halves") \
    X(HA_FINDING_CANT_RUN, "cant-run", "the guest is not started or moved there")                  \
    X(HA_FINDING_RUNS_NOWHERE, "runs-nowhere",                                                     \
      "no node admits the guest: it stays down until one has what it needs")                       \
    X(HA_FINDING_GUEST_ELEVATOR, "guest-elevator",                                                 \
      "the storage below orders the guest's I/O: an elevator of its own only makes it wait")       \
    X(HA_FINDING_ISOLATION, "isolation",                                                           \
      "when its node is cut off, hamgr can't prove that its disks are quiet: the watchdog resets " \
      "the whole host instead of pausing this guest")

enum ha_finding_code {
#define X(symbol, name, why) symbol,
    HA_FINDINGS(X)
#undef X
};

const char *ha_finding_name(uint8_t code);
const char *ha_finding_why(uint8_t code);
const char *ha_severity_name(uint8_t severity);

#define HA_FINDING_TEXT 384u /* a sentence with some names in it */

struct ha_finding {
    uint8_t code;     /* enum ha_finding_code */
    uint8_t severity; /* enum ha_severity */
    uint32_t node;    /* 0 = the cluster */
    char guest[HA_NAME_MAX];
    char what[HA_FINDING_TEXT];
    char fix[HA_FINDING_TEXT]; /* "" = nothing to mend */
};

struct ha_doctor_node {
    uint32_t id;
    char name[HA_NAME_MAX];
    const struct ha_facts *facts; /* NULL: it could not be asked */
    char silence[HA_TEXT_MAX];    /* why not */
    /* The asker's clock when the question went out and when the answer came. */
    uint64_t asked_wall_ms;
    uint64_t told_wall_ms;
};

enum ha_guest_kind { HA_KIND_UNKNOWN = 0, HA_KIND_PV, HA_KIND_PVH, HA_KIND_HVM };

/* What a definition says of a guest. */
struct ha_doctor_guest {
    const char *name;
    uint8_t kind;            /* enum ha_guest_kind */
    const char *never_quiet; /* why its disks can't be proven quiet; NULL: they can */
    const char *elevator;    /* that its kernel's command line names; NULL: none */
};

#define HA_FINDINGS_MAX 512u

struct ha_doctor_input {
    const struct ha_state *state; /* NULL: no hamgrd was asked, only the host is judged */
    const struct ha_runtime *rt;  /* with state */
    uint64_t wall_ms;
    uint32_t node_count;
    struct ha_doctor_node nodes[HA_NODES_MAX];
    uint32_t guest_count;
    const struct ha_doctor_guest *guests;
};

struct ha_diagnosis {
    uint32_t count;
    struct ha_finding list[HA_FINDINGS_MAX]; /* most serious first */
    bool is_cut;
};

void ha_doctor(const struct ha_doctor_input *in, struct ha_diagnosis *ret);

/* May a guest that was given `from` go on where it may have `to`: hex words as in HA_TEXT_CPU_PV
 * and HA_TEXT_CPU_PV_MAX. False: *ret_missing are the features it would lose, by name, cut to
 * capacity. Unknown ("") passes. */
bool ha_cpu_may_move(const char *from, const char *to, char *ret_missing, size_t capacity);

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * /etc/hamgr/hamgr.conf: INI, every key optional, an empty or missing file works. Errors name the
 * file, line, key, what was found and what was expected; an unknown section or key is an error.
 */
#ifndef HAMGR_CONFIG_CONFIG_H
#define HAMGR_CONFIG_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "hamgr/base/err.h"
#include "hamgr/base/limits.h"

#define HA_CONFIG_PATH "/etc/hamgr/hamgr.conf"

enum ha_shutdown_policy { HA_SHUTDOWN_MIGRATE = 1, HA_SHUTDOWN_STOP = 2 };

struct ha_config {
    /* [node] */
    char name[HA_NAME_MAX]; /* name: default the host name */
    bool is_witness;        /* witness = yes|no: this node may run no guests */
    uint64_t mem_kib;       /* memory = N MiB|GiB for guests; 0 = what the hypervisor reports */
    char hypervisor[16];    /* hypervisor = embedded|xen; default xen */
    /* [cluster] */
    uint32_t heartbeat_ms; /* heartbeat = 500ms */
    uint32_t lease_ms;     /* lease = auto (0) | time; auto: the minimum + 1 s */
    uint32_t keeper_ms;    /* keeper-poll = 250ms */
    uint32_t reset_ms;     /* reset = 1s: B */
    uint32_t drain_ms;     /* drain = 2s: D */
    /* [watchdog] */
    uint32_t watchdog_ms;      /* timeout = 5s: W wanted */
    char watchdog_device[128]; /* device = /dev/watchdog; a name starting with unix: is the driver
                                  for nodes in namespaces */
    bool allow_softdog;        /* allow-softdog = no */
    /* [migration] */
    char migration_addr[HA_ADDR_MAX]; /* address = default: the node's corosync address */
    uint16_t port_min;                /* ports = 7780-7799 */
    uint16_t port_max;
    uint32_t max_downtime_ms; /* max-downtime = 300ms */
    uint32_t deadline_ms;     /* deadline = 0 (none) */
    uint8_t on_slow;          /* on-slow = throttle|pause|abort: enum hv_on_slow */
    uint32_t idle_timeout_ms; /* idle-timeout = 10s */
    uint8_t level;            /* level = auto: zstd, 0..19; STREAMP_LEVEL_AUTO */
    uint8_t workers;          /* workers = 0 (by the processors) */
    uint32_t cache_kib;       /* cache = 256MiB: of the sender, as much again at the receiver */
    bool is_identical;        /* identical = no: yes sends unchanged pages again */
    uint32_t rate_mbit;       /* bandwidth = 0 (no cap), Mbit/s */
    uint8_t connections;      /* connections = 2, with 8 CPUs or more 4; 0: one, never resumed */
    uint32_t grace_ms;        /* grace = 8s: a lost connection may come back this long */
    char ca_path[128];        /* ca = /etc/hamgr/pki/ca.pem */
    char cert_path[128];      /* certificate = /etc/hamgr/pki/node.pem */
    char key_path[128];       /* key = /etc/hamgr/pki/node.key */
    uint32_t parallel;        /* parallel = 2: migrations at once from or to one node */
    /* [guests] */
    uint8_t shutdown;        /* on-shutdown = migrate|stop: enum ha_shutdown_policy */
    uint32_t start_parallel; /* start-parallel = 64: starts at once on one node */
    /* [paths] */
    char state_dir[128]; /* state = /var/lib/hamgr */
    /* [ipc] */
    char admin_group[HA_NAME_MAX]; /* admin-group = "": root only; members may use every command */
    /* [log] */
    uint8_t log_level; /* level = info: error|warning|notice|info|debug (syslog's numbers) */
};

void ha_config_default(struct ha_config *ret_config);
/* Parses text (for tests and fuzzing); name is what errors call the file. 0 or a negative error. */
int ha_config_parse(const char *name, const char *text, struct ha_config *config,
                    struct ha_err *err);
/* Reads a file over the defaults. A missing file is no error. */
int ha_config_load(const char *path, struct ha_config *ret_config, struct ha_err *err);

#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * Runs a program under a systemd unit's SystemCallFilter= and CapabilityBoundingSet=, without
 * systemd:
 *
 *     as_unit FILE PROGRAM [ARGUMENT...]
 *
 * FILE has a line "capabilities" and the numbers of those that root keeps in it, and then names the
 * system calls that are allowed, one a line; any other ends the process, as systemd has it. Names
 * that this machine does not know are passed over, for systemd's groups name those of all machines.
 * What the program starts inherits it.
 */
#include <errno.h>
#include <seccomp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define LINE_MAX_SIZE 512
#define CAPABILITIES  "capabilities"

static int allow(scmp_filter_ctx filter, const char *name)
{
    int number = seccomp_syscall_resolve_name(name);

    return number < 0 ? 0 : seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 0);
}

/* The number of names, or a negative error. */
static int allow_all(scmp_filter_ctx filter, FILE *file)
{
    char name[LINE_MAX_SIZE];
    int count = 0, rc = 0;

    while (rc == 0 && fgets(name, sizeof(name), file)) {
        name[strcspn(name, "\n")] = '\0';
        rc = allow(filter, name);
        count++;
    }
    return rc < 0 ? rc : count;
}

/* The first line. Who is not root has none to lose. */
static int keep_capabilities(FILE *file)
{
    char line[LINE_MAX_SIZE], *at = line + strlen(CAPABILITIES), *end;
    uint64_t kept = 0;

    if (!fgets(line, sizeof(line), file) || strncmp(line, CAPABILITIES, strlen(CAPABILITIES)) != 0)
        return -EBADMSG;
    for (unsigned long number = strtoul(at, &end, 10); end != at && number < 64;
         number = strtoul(at, &end, 10)) {
        kept |= UINT64_C(1) << number;
        at = end;
    }
    for (unsigned long number = 0; number < 64 && geteuid() == 0; number++)
        if (!(kept >> number & 1u) && prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0)
            return errno == EINVAL ? 0 : -errno; /* the kernel has no such any more */
    return 0;
}

static int shut_in(const char *path)
{
    FILE *file = fopen(path, "re");
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int rc = !file ? -errno : filter ? keep_capabilities(file) : -ENOMEM;

    if (rc == 0)
        rc = allow_all(filter, file);
    if (rc == 0)
        rc = -ENODATA; /* an empty file would forbid all, and look like a fault of the program's */
    if (rc > 0)
        rc = seccomp_load(filter);
    seccomp_release(filter);
    if (file)
        fclose(file);
    return rc;
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "as_unit FILE PROGRAM [ARGUMENT...]\n");
        return 2;
    }
    int rc = shut_in(argv[1]);
    if (rc == 0) {
        execv(argv[2], argv + 2);
        rc = -errno;
    }
    fprintf(stderr, "as_unit: %s, %s: %s\n", argv[1], argv[2], strerror(-rc));
    return 1;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * What must never happen, on purpose: runs a second copy of a guest, a real process made by the
 * embedded driver, behind hamgr's back and with the label of the first. The observer of a campaign
 * must see its steps and, if the guest has a disk, the storage process its writes.
 *
 *     second_guest RUN_DIR NODE GUEST-UUID EPOCH SECONDS < DEFINITION
 *
 * RUN_DIR is not hamgr-hv's, which would pause and remove what it did not start. Says "runs" when
 * the copy runs, and removes it after SECONDS.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hamgr/hv/embedded/embedded.h"

#define GUEST_BINARY   "/run/hamgr-node/bin/hamgr-guest"
#define DEFINITION_MAX 4096u
#define DOMAINS_MAX    16u
#define SECONDS_MAX    60ul

static struct hv *open_driver(const char *run_dir, const char *node)
{
    struct hv_embedded_options options;
    struct ha_err err = {0};

    hv_embedded_options_from_env(&options);
    options.run_dir = run_dir;
    options.guest_binary = GUEST_BINARY;
    options.node_id = (uint32_t)strtoul(node, NULL, 10);
    struct hv *hv = hv_embedded_open_with(&options, &err);
    if (!hv)
        fprintf(stderr, "second_guest: %s\n", err.text);
    return hv;
}

/* The one domain there is, or 0. */
static uint32_t find(struct hv *hv)
{
    struct hv_domain domains[DOMAINS_MAX];

    return hv->ops->list(hv, domains, DOMAINS_MAX) == 1 ? domains[0].domid : 0;
}

static int live(struct hv *hv, const struct hv_label *label, unsigned seconds)
{
    static uint8_t definition[DEFINITION_MAX];
    struct ha_err err = {0};

    size_t size = fread(definition, 1, sizeof(definition), stdin);
    if (hv->ops->create(hv, label, "second", definition, size, &err) != HV_OK) {
        fprintf(stderr, "second_guest: %s\n", err.text);
        return 1;
    }
    uint32_t domid = find(hv);
    int code = 0;
    if (domid == 0 || hv->ops->run(hv, domid, &err) != HV_OK) {
        fprintf(stderr, "second_guest: it does not run: %s\n", err.text);
        code = 1;
    } else {
        printf("runs\n");
        fflush(stdout);
        sleep(seconds);
    }
    if (hv->ops->destroy(hv, domid, &err) != HV_OK) {
        fprintf(stderr, "second_guest: not removed: %s\n", err.text);
        code = 1;
    }
    return code;
}

int main(int argc, char **argv)
{
    struct hv_label label = {.generation = 1};

    if (argc != 6 || ha_uuid_parse(argv[3], &label.guest) != 0 || strtoul(argv[5], NULL, 10) == 0 ||
        strtoul(argv[5], NULL, 10) > SECONDS_MAX) {
        fprintf(stderr, "usage: second_guest RUN_DIR NODE GUEST-UUID EPOCH SECONDS(1..%lu)\n",
                SECONDS_MAX);
        return 2;
    }
    label.cluster_id = label.guest;
    label.epoch = strtoull(argv[4], NULL, 10);
    struct hv *hv = open_driver(argv[1], argv[2]);
    if (!hv)
        return 1;
    int code = live(hv, &label, (unsigned)strtoul(argv[5], NULL, 10));
    hv->ops->close(hv);
    return code;
}

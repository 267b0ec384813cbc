/* SPDX-License-Identifier: Apache-2.0
 *
 * hamgr-xen-helper: started by libxl to save or restore a domain. With --probe it says whether it
 * would work here: that Xen's libraries are the ones it was built with, and that they call it.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>

#include "hamgr/hv/xen/helper/helper.h"

static struct helper helper = {.link = {.fd = -1, .inherited = -1}, .front_fd = -1};

static int probe(void)
{
    if (!helper_is_bound()) {
        fprintf(stderr, "hamgr-xen-helper: Xen's libraries do not call it\n");
        return EXIT_FAILURE;
    }
    printf("%s\n", XEN_RELEASE);
    return EXIT_SUCCESS;
}

static int begin(struct helper *h, int argc, char **argv)
{
    struct ha_err err = {0};
    int rc = talk_args_parse(argc - 1, argv + 1, &h->args, &err);

    if (rc == 0 && h->args.is_restore)
        helper_divide(h);
    if (rc == 0 && h->args.stream_type != XC_STREAM_PLAIN)
        rc = ha_err_set(&err, HA_E_REFUSED, "helper: checkpointed streams are not offered");
    h->abort_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (rc == 0 && h->abort_fd < 0)
        rc = ha_err_set(&err, errno, "helper: %s", strerror(errno));
    if (rc == 0)
        h->xc = xc_interface_open(&h->logger, &h->logger, 0);
    if (rc == 0 && !h->xc)
        rc =
            ha_err_set(&err, errno, "helper: the hypervisor can't be reached: %s", strerror(errno));
    if (rc != 0)
        helper_error(h, err.text);
    return rc;
}

int main(int argc, char **argv)
{
    struct helper *h = &helper;

    if (argc == 2 && strcmp(argv[1], "--probe") == 0)
        return probe();
    helper_log_init(h);
    /* Whoever reads what we write may be gone: an error, not the end of us. If libxl ends, so does
     * this, in order. */
    (void)signal(SIGPIPE, SIG_IGN);
    (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (begin(h, argc, argv) != 0)
        return EXIT_FAILURE;
    int rc = h->args.is_restore ? helper_restore(h) : helper_save(h);
    helper_complete(h, rc, rc == 0 ? 0 : errno);
    helper_let_front_go(h);
    xc_interface_close(h->xc);
    return EXIT_SUCCESS;
}

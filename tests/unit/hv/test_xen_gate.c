/* SPDX-License-Identifier: Apache-2.0
 *
 * Run, pause and list of the xen driver against a hypervisor of one domain that counts pauses as
 * Xen does: who paused it decides whether it is run again.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "hamgr/hv/xen/work.h"

/* ---- the hypervisor ---- */

static struct {
    uint32_t domid;
    uint8_t handle[16];
    unsigned pauses;
    bool is_there, is_dying, is_shutdown;
    unsigned reason;
    unsigned unpauses; /* asked for */
} dom;

int xc_domain_getinfolist(xc_interface *xc, uint32_t first, unsigned int count,
                          xc_domaininfo_t *ret)
{
    (void)xc;
    if (!dom.is_there || first > dom.domid || count == 0)
        return 0;
    memset(ret, 0, sizeof(*ret));
    ret->domain = (domid_t)dom.domid;
    ret->flags = (dom.pauses > 0 ? XEN_DOMINF_paused : 0) | (dom.is_dying ? XEN_DOMINF_dying : 0) |
                 (dom.is_shutdown ? XEN_DOMINF_shutdown : 0) |
                 (dom.reason << XEN_DOMINF_shutdownshift);
    memcpy(ret->handle, dom.handle, sizeof(ret->handle));
    return 1;
}

int xc_domain_pause(xc_interface *xc, uint32_t domid)
{
    (void)xc;
    assert_int_equal(domid, dom.domid);
    dom.pauses++;
    return 0;
}

int xc_domain_unpause(xc_interface *xc, uint32_t domid)
{
    (void)xc;
    assert_int_equal(domid, dom.domid);
    dom.unpauses++;
    if (dom.pauses == 0) {
        errno = EINVAL;
        return -1;
    }
    dom.pauses--;
    return 0;
}

/* What the same file uses and these tests do not. */
int xc_physinfo(xc_interface *xc, xc_physinfo_t *info)
{
    (void)xc, (void)info;
    return -1;
}

int xc_sched_id(xc_interface *xc, int *ret_id)
{
    (void)xc, (void)ret_id;
    return -1;
}

int xc_sched_credit_domain_get(xc_interface *xc, uint32_t domid, struct xen_domctl_sched_credit *p)
{
    (void)xc, (void)domid, (void)p;
    return -1;
}

int xc_sched_credit_domain_set(xc_interface *xc, uint32_t domid, struct xen_domctl_sched_credit *p)
{
    (void)xc, (void)domid, (void)p;
    return -1;
}

int xc_sched_credit2_domain_get(xc_interface *xc, uint32_t domid,
                                struct xen_domctl_sched_credit2 *p)
{
    (void)xc, (void)domid, (void)p;
    return -1;
}

int xc_sched_credit2_domain_set(xc_interface *xc, uint32_t domid,
                                struct xen_domctl_sched_credit2 *p)
{
    (void)xc, (void)domid, (void)p;
    return -1;
}

bool xen_use_helper(struct hv_xen *x)
{
    (void)x;
    return false;
}

/* ---- one guest, as a worker has just created it ---- */

static struct hv_xen x;
static char dir[64];

static int set_up(void **state)
{
    struct xen_record record = {
        .phase = XEN_COMPLETE, .ends = {HV_POWEROFF, HV_REBOOT}, .mem_kib = 4096, .name = "web1"};

    (void)state;
    snprintf(dir, sizeof(dir), "/tmp/hamgr-gate-XXXXXX");
    assert_non_null(mkdtemp(dir));
    x.dir_fd = xen_records_open(dir, NULL);
    assert_true(x.dir_fd >= 0);
    memset(record.label.guest.b, 7, sizeof(record.label.guest.b));
    assert_int_equal(xen_record_add(x.dir_fd, &record, NULL), 0);
    memset(&dom, 0, sizeof(dom));
    dom.domid = record.domid;
    dom.is_there = true;
    dom.pauses = 1;
    memcpy(dom.handle, record.label.guest.b, sizeof(dom.handle));
    return 0;
}

static int tear_down(void **state)
{
    static const char *const names[] = {"lock", "last-domid"};
    char path[96];

    (void)state;
    xen_record_remove(x.dir_fd, dom.domid);
    for (size_t i = 0; i < 2; i++)
        unlinkat(x.dir_fd, names[i], 0);
    close(x.dir_fd);
    snprintf(path, sizeof(path), "%s/domains", dir);
    return rmdir(path) == 0 && rmdir(dir) == 0 ? 0 : -1;
}

static void assert_listed(enum hv_domain_state state)
{
    struct hv_domain domains[4];

    assert_int_equal(xen_list(&x.hv, domains, 4), 1);
    assert_true(domains[0].is_labelled);
    assert_int_equal(domains[0].state, state);
}

static void run(void)
{
    struct ha_err err = {0};

    assert_int_equal(xen_run(&x.hv, dom.domid, &err), HV_OK);
}

static void a_created_guest_runs_and_is_paused(void **state)
{
    (void)state;
    assert_listed(HV_PAUSED);
    run();
    assert_int_equal(dom.pauses, 0);
    assert_listed(HV_RUNNING);
    assert_int_equal(xen_pause(&x.hv, dom.domid, NULL), HV_OK);
    assert_int_equal(xen_pause(&x.hv, dom.domid, NULL), HV_OK);
    assert_int_equal(dom.pauses, 1); /* once is enough */
    assert_listed(HV_PAUSED);
    dom.pauses = 2; /* a worker paused it at the same instant */
    run();
    assert_int_equal(dom.pauses, 0);
}

/* xl destroy: pause, devices, and only then the domain. */
static void one_that_is_taken_apart_is_not_run(void **state)
{
    (void)state;
    run();
    dom.unpauses = 0;
    dom.pauses = 1;
    assert_listed(HV_RUNNING);
    run();
    assert_int_equal(dom.unpauses, 0);
    dom.is_dying = true;
    assert_listed(HV_CRASHED);
    assert_int_equal(xen_run(&x.hv, dom.domid, NULL), HV_FAILED);
    assert_int_equal(xen_pause(&x.hv, dom.domid, NULL), HV_OK);
    assert_int_equal(dom.pauses, 1);
    assert_int_equal(dom.unpauses, 0);
}

/* Whoever paused it may let it go on after the lease has ended: then our pause must hold it. */
static void the_end_of_a_lease_holds_it_whatever_others_do(void **state)
{
    (void)state;
    run();
    dom.pauses = 1;
    assert_int_equal(xen_pause(&x.hv, dom.domid, NULL), HV_OK);
    assert_int_equal(dom.pauses, 2);
    assert_listed(HV_PAUSED);
    dom.pauses--; /* xl unpause */
    assert_listed(HV_PAUSED);
    run();
    assert_listed(HV_RUNNING);
}

/* A driver that is opened anew (hamgr-hv was killed) knows the same. */
static void who_let_it_go_is_remembered(void **state)
{
    (void)state;
    run();
    close(x.dir_fd);
    x.dir_fd = xen_records_open(dir, NULL);
    dom.pauses = 1;
    assert_listed(HV_RUNNING);
}

static void what_has_ended_or_is_suspended_is_left_alone(void **state)
{
    (void)state;
    run();
    dom.unpauses = 0;
    dom.is_shutdown = true;
    dom.reason = 2;
    assert_listed(HV_SUSPENDED);
    assert_int_equal(xen_run(&x.hv, dom.domid, NULL), HV_FAILED);
    assert_int_equal(xen_pause(&x.hv, dom.domid, NULL), HV_OK);
    assert_int_equal(dom.pauses, 0);
    dom.reason = 0;
    assert_listed(HV_POWEROFF);
    assert_int_equal(xen_run(&x.hv, dom.domid, NULL), HV_FAILED);
    dom.is_there = false;
    assert_int_equal(xen_pause(&x.hv, dom.domid, NULL), HV_FAILED);
    assert_int_equal(dom.unpauses, 0);
}

/* Another toolstack's domain may have a domid that was ours. */
static void a_stranger_has_no_mark(void **state)
{
    struct hv_domain domains[4];

    (void)state;
    run();
    dom.handle[0] ^= 1;
    dom.pauses = 1;
    assert_int_equal(xen_list(&x.hv, domains, 4), 1);
    assert_false(domains[0].is_labelled);
    assert_int_equal(domains[0].state, HV_PAUSED);
    assert_int_equal(xen_run(&x.hv, dom.domid, NULL), HV_FAILED);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_created_guest_runs_and_is_paused),
        TEST(one_that_is_taken_apart_is_not_run),
        TEST(the_end_of_a_lease_holds_it_whatever_others_do),
        TEST(who_let_it_go_is_remembered),
        TEST(what_has_ended_or_is_suspended_is_left_alone),
        TEST(a_stranger_has_no_mark),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

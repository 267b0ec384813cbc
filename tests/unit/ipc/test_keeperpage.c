/* SPDX-License-Identifier: Apache-2.0
 *
 * The reader's side of the keeper's page: a copy is consistent, and a page whose writer died in the
 * middle of an update never grants a lease.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>

#include "hamgr/ipc/keeperproto.h"

static void test_read(void **state)
{
    (void)state;
    struct keeper_page page = {
        .sequence = 4, .version = 1, .lease_end_ns = 99, .is_armed = 1, .lease_ms = 7};
    struct keeper_lease_copy copy = keeper_page_read(&page);

    assert_int_equal(copy.lease_end_ns, 99);
    assert_int_equal(copy.lease_ms, 7);
    assert_false(copy.is_quarantined);
    assert_true(copy.is_armed);
}

static void test_writer_died(void **state)
{
    (void)state;
    struct keeper_page page = {.sequence = 5, .version = 1, .lease_end_ns = UINT64_MAX};
    struct keeper_lease_copy copy = keeper_page_read(&page);

    assert_int_equal(copy.lease_end_ns, 0);
    assert_true(copy.is_quarantined);
    assert_true(copy.is_armed);
}

#define UPDATES 200000u

/* Writes pages in which the lease end is even exactly if quarantined and armed are both 1. */
static void *writer(void *argument)
{
    struct keeper_page *page = argument;

    for (uint32_t i = 1; i <= UPDATES; i++) {
        atomic_fetch_add(&page->sequence, 1);
        atomic_store(&page->lease_end_ns, i);
        atomic_store(&page->is_quarantined, i % 2 == 0);
        atomic_store(&page->is_armed, i % 2 == 0);
        atomic_fetch_add(&page->sequence, 1);
    }
    return NULL;
}

static void test_never_torn(void **state)
{
    (void)state;
    static struct keeper_page page = {.version = 1};
    pthread_t thread;
    uint64_t end_ns = 0;

    page.is_quarantined = page.is_armed = 1;
    assert_int_equal(pthread_create(&thread, NULL, writer, &page), 0);
    for (uint64_t reads = 0; end_ns < UPDATES && reads < 50000000u; reads++) {
        struct keeper_lease_copy copy = keeper_page_read(&page);
        if (copy.lease_end_ns == 0)
            continue; /* the start, or a writer that was preempted for long */
        assert_int_equal(copy.is_quarantined, copy.lease_end_ns % 2 == 0);
        assert_int_equal(copy.is_armed, copy.lease_end_ns % 2 == 0);
        end_ns = copy.lease_end_ns;
    }
    pthread_join(thread, NULL);
    assert_int_equal(end_ns, UPDATES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_writer_died),
        cmocka_unit_test(test_never_torn),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * The embedded driver under test, for the contract and for tests of its own.
 */
#ifndef HAMGR_TESTS_CONTRACT_EMBEDDED_H
#define HAMGR_TESTS_CONTRACT_EMBEDDED_H

#include "contract.h"
#include "hamgr/hv/embedded/embedded.h"
#include "hamgr/hv/embedded/observer.h"

extern const struct contract_driver contract_embedded;
/* The observer page of the present test, by slot. */
extern struct hv_observer_slot *embedded_slots;
/* The test's directory: run/, page, disks/. */
const char *embedded_dir(void);
/* A handle as that node, guests as that uid. */
struct hv *embedded_open_as(uint32_t node_id, uint32_t uid);

/* contract_ring.c */
void test_pages_through_the_ring(void **state);
void test_a_ring_that_lies(void **state);

#endif

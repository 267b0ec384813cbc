/* SPDX-License-Identifier: Apache-2.0
 *
 * What the lab's guest needs of its machine, being the only program in it: file systems, modules,
 * its settings on the kernel's command line, a network card that speaks UDP.
 */
#ifndef XENLAB_GUEST_MACHINE_H
#define XENLAB_GUEST_MACHINE_H

#include <stddef.h>
#include <stdint.h>

/* PID 1's beginnings: mounts /proc and /dev, loads /modules/order. Complains on the console. */
void machine_begin(void);
/* lab.KEY=VALUE of the command line as a number, fallback if it is not there or is none. */
uint64_t machine_number(const char *key, uint64_t fallback);
/* The same as text; "" if it is not there. */
void machine_text(const char *key, char *ret_text, size_t size);
uint64_t machine_random(void);
/* CLOCK_BOOTTIME and CLOCK_REALTIME in ns. BOOTTIME goes on while a guest is suspended; MONOTONIC
 * stands still and hides the pause. */
uint64_t machine_boottime_ns(void);
uint64_t machine_realtime_ns(void);
/* Waits until device exists (a frontend connects in its own time) and opens it for direct I/O;
 * -errno after 30 s. ret_bytes is its size. */
int machine_open_disk(const char *device, uint64_t *ret_bytes);
/* Gives eth0 the address and opens a socket that sends to broadcast:port; -errno. */
int machine_open_network(const char *address, uint16_t port);

#endif

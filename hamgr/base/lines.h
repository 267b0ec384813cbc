/* SPDX-License-Identifier: Apache-2.0
 *
 * Lines of a text that people write.
 */
#ifndef HAMGR_BASE_LINES_H
#define HAMGR_BASE_LINES_H

/* inih (INI_MAX_LINE) cuts longer lines in two and reads the rest as a line of its own: the end of
 * a long comment could become a key. Such texts are refused before it sees them. */
#define HA_LINE_MAX 180u

/* Number of the first line with more than HA_LINE_MAX bytes, 0 if there is none. */
int ha_long_line(const char *text);

#endif

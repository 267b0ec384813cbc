# SPDX-License-Identifier: Apache-2.0
"""The Xen lab: QEMU machines that run Xen, a Debian dom0 and hamgr, in a network of their own."""

# SPDX-License-Identifier: Apache-2.0
"""Clusters in Linux namespaces: nodes that can lose power, cables that can be pulled.

A *room* (room.py) is one process outside the nodes, PID 1 of namespaces of its own. It holds what a
machine room holds: the switch, the cables, each node's power supply, watchdog and power device, the
shared storage. Nodes live inside its namespaces; when the room ends, the kernel ends everything in
it, so nothing can be left behind. Programs use client.Room; the standard library is all it needs.
"""

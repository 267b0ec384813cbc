# SPDX-License-Identifier: Apache-2.0
# Disks of embedded guests: front end and witness (pure), driver side, the node's backend, the
# storage outside all nodes.
target_sources(ha_pure PRIVATE diskfront.c storageproto.c storagewitness.c)
add_library(emb_disk STATIC disk.c)
target_link_libraries(emb_disk PUBLIC ha_pure)

add_executable(hamgr-disk hamgr-disk.c)
target_link_libraries(hamgr-disk PRIVATE ha_base PkgConfig::QB PkgConfig::SYSTEMD)
add_executable(hamgr-storage hamgr-storage.c storage_ctl.c)
target_link_libraries(hamgr-storage PRIVATE ha_base PkgConfig::QB PkgConfig::JANSSON)
install(TARGETS hamgr-disk hamgr-storage DESTINATION ${CMAKE_INSTALL_SBINDIR})

ha_test(test_storage SOURCES ${CMAKE_SOURCE_DIR}/tests/unit/hv/test_storage.c)
ha_test(test_disk SOURCES ${CMAKE_SOURCE_DIR}/tests/unit/hv/test_disk.c LIBS emb_disk
  PkgConfig::JANSSON)
target_compile_definitions(test_disk PRIVATE HAMGR_DISK="$<TARGET_FILE:hamgr-disk>"
  HAMGR_STORAGE="$<TARGET_FILE:hamgr-storage>")
add_dependencies(test_disk hamgr-disk hamgr-storage)

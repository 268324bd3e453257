# Install rules: headers, the CMake package and the pkg-config file, all independent of the architecture.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(nibble_package_dir "${CMAKE_INSTALL_DATADIR}/cmake/nibble")

install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/nibble" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
    FILES_MATCHING PATTERN "*.hpp")
install(TARGETS nibble EXPORT nibbleTargets INCLUDES DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT nibbleTargets NAMESPACE nibble:: DESTINATION "${nibble_package_dir}")

configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/nibbleConfig.cmake.in"
    "${PROJECT_BINARY_DIR}/nibbleConfig.cmake" INSTALL_DESTINATION "${nibble_package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/nibbleConfigVersion.cmake"
    COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES "${PROJECT_BINARY_DIR}/nibbleConfig.cmake" "${PROJECT_BINARY_DIR}/nibbleConfigVersion.cmake"
    "${PROJECT_SOURCE_DIR}/cmake/nibbleXsimd.cmake" DESTINATION "${nibble_package_dir}")

configure_file("${PROJECT_SOURCE_DIR}/cmake/nibble.pc.in" "${PROJECT_BINARY_DIR}/nibble.pc" @ONLY)
install(FILES "${PROJECT_BINARY_DIR}/nibble.pc" DESTINATION "${CMAKE_INSTALL_DATADIR}/pkgconfig")

# Defines nibble::xsimd, whatever way xsimd came: a target of the surrounding project (`xsimd::xsimd` or `xsimd`), an
# installed package, or bare headers. Used by nibble's own build and installed beside nibbleConfig.cmake.
# Only the headers are taken over: the target that Debian 12 installs also names a library `xtl` that it does not ship.
if(NOT TARGET nibble::xsimd)
    if(NOT TARGET xsimd::xsimd AND NOT TARGET xsimd)
        find_package(xsimd CONFIG QUIET)
    endif()
    add_library(nibble::xsimd INTERFACE IMPORTED GLOBAL)
    if(TARGET xsimd::xsimd)
        set(nibble_xsimd_target xsimd::xsimd)
    elseif(TARGET xsimd)
        set(nibble_xsimd_target xsimd)
    else()
        find_path(nibble_xsimd_include_dir xsimd/xsimd.hpp)
        mark_as_advanced(nibble_xsimd_include_dir)
    endif()
    if(DEFINED nibble_xsimd_target)
        target_include_directories(nibble::xsimd INTERFACE
            "$<TARGET_PROPERTY:${nibble_xsimd_target},INTERFACE_INCLUDE_DIRECTORIES>")
        target_compile_definitions(nibble::xsimd INTERFACE
            "$<TARGET_PROPERTY:${nibble_xsimd_target},INTERFACE_COMPILE_DEFINITIONS>")
    elseif(nibble_xsimd_include_dir)
        target_include_directories(nibble::xsimd INTERFACE "${nibble_xsimd_include_dir}")
    else()
        set(nibble_xsimd_missing TRUE)
    endif()
endif()

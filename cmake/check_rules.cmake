# check_rules.cmake: the rules about nibble's headers that a search for words, or counting lines, can hold.
#   cmake -DROOT=<repository> -P cmake/check_rules.cmake
# Comments and string literals are not looked at.
cmake_minimum_required(VERSION 3.22)

set(faults 0)
set(word_begin "(^|[^A-Za-z0-9_])")
set(word_end "([^A-Za-z0-9_]|$)")

# Reports the lines of `code` that match: three of them, and how many more.
macro(forbid pattern why)
    if("${code}" MATCHES "${pattern}")
        set(number 0)
        set(more -3)
        foreach(line IN LISTS code)
            math(EXPR number "${number} + 1")
            if(line MATCHES "${pattern}")
                string(STRIP "${line}" shown)
                math(EXPR more "${more} + 1")
                if(more LESS_EQUAL 0)
                    message(STATUS "include/nibble/${header}:${number}: ${shown}\n     ${why}")
                endif()
                math(EXPR faults "${faults} + 1")
            endif()
        endforeach()
        if(more GREATER 0)
            message(STATUS "include/nibble/${header}: and ${more} more lines like these")
        endif()
    endif()
endmacro()

# Functions of more lines than longest_function, braces to braces: none but these, each `header name(`.
set(longest_function 60)
set(long_functions
    # A loop for the registers of a machine: in parts, it is longer wherever a part is not compiled into it.
    "kernel/integer_tile.hpp integer_tile("
    "kernel/real_tile.hpp real_tile("
    # A table of instructions, one entry for each way to decode.
    "isa/avx2.hpp decode("
)
set(long_functions_left "${long_functions}")

# Looks at the lines of `code`, where @ stands for a semicolon and brackets for square ones, of which only the outermost
# functions count. Lambdas that are constants are functions too.
macro(check_function_lengths)
    set(number 0)
    set(depth 0)
    set(body -1) # the depth that the function is at, -1 outside of any
    set(head "") # what stands before the next brace
    foreach(line IN LISTS code)
        math(EXPR number "${number} + 1")
        if(line MATCHES "^#")
            continue()
        endif()
        while(line MATCHES "{[^{}]*}")
            string(REGEX REPLACE "{[^{}]*}" "" line "${line}")
        endwhile()
        while(line MATCHES "^([^{}]*)([{}])(.*)$")
            set(before "${CMAKE_MATCH_1}")
            set(brace "${CMAKE_MATCH_2}")
            set(line "${CMAKE_MATCH_3}")
            if(brace STREQUAL "{")
                if(body EQUAL -1)
                    string(APPEND head " ${before}")
                    string(REGEX REPLACE ".*@" "" head "${head}")
                    if(head MATCHES "\\)[ ]*((const|noexcept|override|final|mutable)[ ]*)*((->|requires)[^@]*)?$")
                        set(body ${depth})
                        set(begun ${number})
                        set(function "${head}")
                    endif()
                endif()
                math(EXPR depth "${depth} + 1")
            else()
                math(EXPR depth "${depth} - 1")
                if(depth EQUAL body)
                    set(body -1)
                    math(EXPR length "${number} - ${begun} + 1")
                    if(length GREATER longest_function)
                        report_long_function()
                    endif()
                endif()
            endif()
            set(head "")
        endwhile()
        if(body EQUAL -1)
            string(APPEND head " ${line}")
        endif()
    endforeach()
    if(NOT depth EQUAL 0)
        message(STATUS "include/nibble/${header}: braces that check_rules.cmake does not follow")
        math(EXPR faults "${faults} + 1")
    endif()
endmacro()
macro(report_long_function)
    set(listed FALSE)
    foreach(entry IN LISTS long_functions)
        string(REPLACE " " ";" entry_parts "${entry}")
        list(GET entry_parts 0 entry_header)
        list(GET entry_parts 1 entry_name)
        string(FIND "${function}" " ${entry_name}" found)
        if(header STREQUAL entry_header AND NOT found EQUAL -1)
            set(listed TRUE)
            list(REMOVE_ITEM long_functions_left "${entry}")
        endif()
    endforeach()
    if(NOT listed)
        string(REGEX REPLACE "[ ]+" " " shown "${function}")
        message(STATUS "include/nibble/${header}:${begun}:${shown}\n     a function of ${length} lines; ${longest_function} are enough: name its steps")
        math(EXPR faults "${faults} + 1")
    endif()
endmacro()

file(GLOB_RECURSE headers RELATIVE "${ROOT}/include/nibble" "${ROOT}/include/nibble/*.hpp")
foreach(header IN LISTS headers)
    get_filename_component(name "${header}" NAME)
    file(READ "${ROOT}/include/nibble/${header}" text)

    # 1. The first line is one sentence: `// name.hpp: what it holds and between which stages it stands`.
    string(FIND "${text}\n" "\n" end)
    string(SUBSTRING "${text}" 0 ${end} first)
    string(FIND "${first}" "// ${name}: " by_name)
    string(FIND "${first}" "// ${header}: " by_path)
    if(NOT by_name EQUAL 0 AND NOT by_path EQUAL 0)
        message(STATUS "include/nibble/${header}:1: ${first}\n     a header opens with one sentence: // ${name}: ...")
        math(EXPR faults "${faults} + 1")
    endif()
    if(NOT text MATCHES "\n#pragma once\n")
        message(STATUS "include/nibble/${header}: no #pragma once")
        math(EXPR faults "${faults} + 1")
    endif()

    # What it declares stands between the two that keep users' warnings quiet.
    if(text MATCHES "\nnamespace nibble" AND NOT text MATCHES "\nNIBBLE_HEADER_BEGIN;\nnamespace nibble.*\n} // namespace nibble[^\n]*\nNIBBLE_HEADER_END;\n")
        message(STATUS "include/nibble/${header}: NIBBLE_HEADER_BEGIN before the namespace, NIBBLE_HEADER_END after it")
        math(EXPR faults "${faults} + 1")
    endif()

    # Lines as a list: brackets and semicolons would cut it elsewhere. A block comment keeps its line breaks.
    string(REPLACE ";" "@" code "${text}")
    string(REPLACE "[" "(" code "${code}")
    string(REPLACE "]" ")" code "${code}")
    string(REGEX REPLACE "\\\\\n" " \n" code "${code}")
    string(REGEX REPLACE "\\\\." "" code "${code}")
    string(REGEX REPLACE "\"[^\"\n]*\"" "\"\"" code "${code}")
    string(REGEX REPLACE "//[^\n]*" "" code "${code}")
    string(REGEX REPLACE "'[^'\n]?'" "" code "${code}")
    string(REPLACE "\n" ";" code "${code}")
    check_function_lengths()
    string(REPLACE "@" " " code "${code}")

    # 2. What headers of this library do without, because users pay for it: compile time, or weak symbols of std::.
    forbid("#[ \t]*include[ \t]*<(algorithm|ranges|functional|iostream|sstream|regex|format|numeric|random)>"
        "too heavy for a header that others include")
    # Headers of verbs are compiled once for each instruction set of a program; what they take from std:: has one name for all.
    if(NOT header MATCHES "^(io|adapt)/|^core/status\\.hpp$")
        forbid("std::(vector|shared_ptr|unique_ptr|make_shared|make_unique|atomic|array|string|bit_cast|exchange|swap|forward|launder|is_constant_evaluated|popcount|bit_width|bit_ceil|has_single_bit|countl_zero|countr_zero|min|max|fill|copy|function|optional|numeric_limits<[a-z0-9_:]+>::(min|max)\\(\\))${word_end}"
            "one copy of it serves all instruction sets of a program: core/ has dynamic_array, array_view, shared_ptr, detail::atomic, bits.hpp and exchange.hpp")
        if(NOT header STREQUAL "attend.hpp")
            forbid("std::span${word_end}" "one copy of its functions serves all instruction sets of a program: array_view")
        endif()
    endif()
    # 3. Nothing hidden: no thread, no environment, no output, no exception of our own.
    if(NOT header STREQUAL "adapt/thread_pool.hpp")
        forbid("#[ \t]*include[ \t]*<(thread|future|mutex|condition_variable|pthread[.]h)>" "the caller brings the executor")
    endif()
    if(NOT header STREQUAL "core/check.hpp")
        forbid("${word_begin}(getenv|throw|dynamic_cast|typeid|f?printf|puts|abort)${word_end}"
            "NIBBLE_CHECK reports; nothing else prints, throws or reads the environment")
    endif()
    # Names that are macros somewhere (tests/headers/hostile.hpp); said here first because a compiler says it at length.
    forbid("${word_begin}(I|near|far|small|interface|IN|OUT|ERROR|major|minor|unix|linux)${word_end}"
        "a macro of this name is defined by some platform")
    # 4. Compilers are told apart in one place.
    if(NOT header MATCHES "^(core/config|isa/.*)\\.hpp$")
        forbid("__GNUC__|__clang__|_MSC_VER" "#if on compilers stands in core/config.hpp only")
        forbid("__(AVX|SSE|FMA|F16C|ARM_)" "#if on instruction sets stands in core/config.hpp and isa/ only")
    endif()
    # What a machine has and how it is tuned are facts of its ISA.
    if(NOT header MATCHES "^(core/config|isa/.*|dispatch/.*)\\.hpp$")
        forbid("NIBBLE_(HAS|VECTOR|TUNED|CPU)_" "facts of machines stand in isa/ and dispatch/ only: ask the ISA (isa_facts)")
        forbid("__builtin_cpu_" "facts of processors stand in isa/ only: ask the ISA (isa_tuning)")
    endif()
    # 5. A kernel names no element and no instruction set, not within a word either.
    if(header MATCHES "^kernel/")
        string(TOLOWER "${code}" code)
        string(REGEX REPLACE "nibble/kernel/family/[a-z0-9_]+" "" code "${code}") # named after operands, as elements are
        forbid("${word_begin}(u?int[1-8]|ternary|binary|e[0-9]m[0-9][a-z0-9]*|nf4|fp4|fp8|(mx|nv)fp[0-9]+)${word_end}"
            "a kernel names no element: ask the scheme")
        forbid("(^|[^a-z0-9])(avx|sse|neon|amx|sve|vnni)[a-z0-9_]*|${word_begin}(_mm(256|512)?_[a-z0-9_]+|__m(128|256|512)[a-z]*)${word_end}"
            "a kernel names no instruction set: ask the ISA")
        forbid("xsimd::" "a kernel names no instruction set: ask the ISA")
    endif()
    # 6. An executor's members are called in one place, which checks how many workers it promises.
    if(NOT header STREQUAL "core/executor.hpp")
        forbid("(threads|executor)[ \t]*([.]|->)[ \t]*(concurrency|parallel_for)[ \t]*[(]"
            "ask detail::concurrency_of(threads) and hand out work by detail::for_each_task(count, threads, task)")
    endif()
    # 7. An ISA file has no loop over memory. Loops over the registers of one step are fine, and those count (for).
    if(header MATCHES "^isa/")
        forbid("${word_begin}while${word_end}" "an ISA file has no loop over memory")
    endif()
    # 8. The compilers' own vectors are spelt in one place.
    if(NOT header STREQUAL "isa/fixed_vector.hpp")
        forbid("vector_size" "use detail::fixed_vector (isa/fixed_vector.hpp)")
    endif()
endforeach()

foreach(entry IN LISTS long_functions_left)
    message(STATUS "cmake/check_rules.cmake: ${entry} is no long function any more: take it off the list")
    math(EXPR faults "${faults} + 1")
endforeach()

list(LENGTH headers count)
if(faults)
    message(FATAL_ERROR "${faults} lines against the rules in cmake/check_rules.cmake")
endif()
message(STATUS "${count} headers keep the rules")

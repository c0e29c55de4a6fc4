#!/usr/bin/env bash
# A C program of 200 files: make -j, a changed header, and nothing to do afterwards.
set -euo pipefail
if [ "$1" = make ]; then
    mkdir src
    for number in {1..200}; do
        printf '#include "all.h"\nint f%d(int x) { return x + %d + STEP; }\n' "$number" "$number" \
            >"src/f$number.c"
    done
    {
        echo '#define STEP 0'
        printf 'int f%d(int);\n' {1..200}
    } >src/all.h
    {
        printf '#include <stdio.h>\n#include "all.h"\nint main(void) { int x = 0;\n'
        printf 'x = f%d(x);\n' {1..200}
        printf 'printf("%%d\\n", x); return 0; }\n'
    } >src/main.c
    cat >Makefile <<'END'
OBJECTS = $(patsubst src/%.c,obj/%.o,$(filter-out src/main.c,$(wildcard src/*.c)))
all: sum
sum: obj/main.o libf.a
	$(CC) -o $@ $^
libf.a: $(OBJECTS)
	ar rcs $@ $^
obj/%.o: src/%.c | obj
	$(CC) -O0 -g -MMD -c -o $@ $<
obj: ; mkdir obj
-include $(wildcard obj/*.d)
END
    make -s -j4
    make -q
    [ "$(./sum)" = 20100 ]
    sed -i 's/STEP 0/STEP 1/' src/all.h
    (! make -q)
    make -s -j4
fi
# Nothing is out of date: the times survived too.
make -q
[ "$(./sum)" = 20300 ]
ar t libf.a | wc -l | grep -qx 200

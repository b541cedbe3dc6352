/**
 * Loads the LMDB addon that build.ts embeds in the executable. From source this file is not used:
 * the lmdb package then finds its addon in node_modules.
 *
 * Bun would unpack an embedded addon to a file in the temporary directory, under a name that
 * another user of the machine can predict, and leave it there. An anonymous file in memory has no
 * name, needs no writable or executable file system, and goes away with its descriptor.
 */
import { dlopen } from 'bun:ffi'
import { closeSync, readFileSync, writeFileSync } from 'node:fs'

export interface EmbeddedLibrary {
  /** The name by which the addon asks the dynamic linker for it. */
  readonly soname: string
  readonly path: string
}

interface CLibrary {
  readonly memfdCreate: (name: Uint8Array, flags: number) => number
}

// linux/memfd.h. Kernels before 6.3 do not know MFD_EXEC and then answer EINVAL.
const memfdCloexec = 1
const memfdExec = 0x10

function cLibrary(): CLibrary {
  const names = ['libc.so.6', `libc.musl-${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}.so.1`]
  const failures: string[] = []
  for (const name of names) {
    try {
      const { symbols } = dlopen(name, {
        memfd_create: { args: ['cstring', 'u32'], returns: 'i32' },
      })
      return {
        memfdCreate: (memfdName, flags) => symbols.memfd_create(memfdName, flags),
      }
    } catch (cause) {
      failures.push((cause as Error).message)
    }
  }
  throw new Error(`no C library to create a file in memory with: ${failures.join('; ')}`)
}

/** Calls `use` with a path under which the dynamic linker can open the embedded file. */
function withMemoryFile<T>(c: CLibrary, embeddedPath: string, use: (path: string) => T): T {
  const name = new TextEncoder().encode('fnd\0')
  let fd = c.memfdCreate(name, memfdCloexec | memfdExec)
  if (fd < 0) fd = c.memfdCreate(name, memfdCloexec)
  if (fd < 0) throw new Error('memfd_create failed: the kernel refuses files in memory')
  try {
    writeFileSync(fd, readFileSync(embeddedPath))
    return use(`/proc/self/fd/${fd}`)
  } finally {
    closeSync(fd)
  }
}

function isMissingLibrary(fault: unknown, libraries: readonly EmbeddedLibrary[]): boolean {
  return fault instanceof Error && libraries.some(({ soname }) => fault.message.includes(soname))
}

/**
 * The C++ runtime of the machine is preferred; the embedded one serves where there is none.
 * `libraries` are in the order of their dependence. The linker takes a library that is already
 * loaded for one it is asked for when the sonames agree, so opening them first is enough.
 */
export function loadEmbeddedAddon(
  addonPath: string,
  libraries: readonly EmbeddedLibrary[],
): Record<string, unknown> {
  const c = cLibrary()
  const target: { exports: Record<string, unknown> } = { exports: {} }
  const load = () => withMemoryFile(c, addonPath, path => process.dlopen(target, path))
  try {
    load()
  } catch (fault) {
    if (!isMissingLibrary(fault, libraries)) throw fault
    for (const { path } of libraries) withMemoryFile(c, path, memoryPath => dlopen(memoryPath, {}))
    load()
  }
  return target.exports
}

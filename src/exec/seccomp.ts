/**
 * System calls that functions do not need and kernels are attacked through: namespaces and mounts
 * (which an unprivileged user namespace would open to everyone), tracing, keys, BPF, modules.
 * Everything else stays allowed: the rest of the confinement does not depend on this list.
 */
import { assert } from '../errors.ts'
import type { Script } from './libc.ts'

interface Numbers {
  readonly auditArch: number
  readonly clone: number
  readonly refused: readonly number[]
}

/** open_tree, move_mount, fsopen, fsconfig, fsmount, fspick, io_uring_setup, mount_setattr. */
const commonRefused = [428, 429, 430, 431, 432, 433, 425, 442]

const numbersOf: Readonly<Record<'x64' | 'arm64', Numbers>> = {
  x64: {
    auditArch: 0xc000_003e,
    clone: 56,
    // ptrace, pivot_root, acct, mount, umount2, swapon, reboot, init_module, delete_module,
    // quotactl, kexec_load, add_key, request_key, keyctl, unshare, perf_event_open,
    // open_by_handle_at, setns, process_vm_readv, process_vm_writev, kcmp, finit_module, bpf,
    // userfaultfd
    refused: [
      101, 155, 163, 165, 166, 167, 169, 175, 176, 179, 246, 248, 249, 250, 272, 298, 304, 308, 310,
      311, 312, 313, 321, 323,
    ],
  },
  arm64: {
    auditArch: 0xc000_00b7,
    clone: 220,
    refused: [
      117, 41, 89, 40, 39, 224, 142, 105, 106, 60, 104, 217, 218, 219, 97, 241, 265, 268, 270, 271,
      272, 273, 280, 282,
    ],
  },
}

const clone3 = 435
const newUserNamespace = 0x1000_0000
const x32Bit = 0x4000_0000

const permissionDenied = 0x0005_0001
/** As on a kernel without clone3: then libc uses clone, whose flags a filter can see. */
const notImplemented = 0x0005_0026
const allow = 0x7fff_0000
const kill = 0x8000_0000

const load = 0x20
const jumpEqual = 0x15
const jumpAtLeast = 0x35
const jumpBits = 0x45
const give = 0x06

/** Offsets in `struct seccomp_data`. */
const numberAt = 0
const archAt = 4
const firstArgumentAt = 16

type Instruction = readonly [code: number, ifTrue: number, ifFalse: number, k: number]

function filter(numbers: Numbers): Instruction[] {
  const refused = [...numbers.refused, ...commonRefused]
  const checks = refused.flatMap((number): Instruction[] => [
    [jumpEqual, 0, 1, number],
    [give, 0, 0, permissionDenied],
  ])
  return [
    [load, 0, 0, archAt],
    [jumpEqual, 1, 0, numbers.auditArch],
    [give, 0, 0, kill],
    [load, 0, 0, numberAt],
    [jumpAtLeast, 0, 1, x32Bit],
    [give, 0, 0, permissionDenied],
    ...checks,
    [jumpEqual, 0, 1, clone3],
    [give, 0, 0, notImplemented],
    [jumpEqual, 0, 3, numbers.clone],
    [load, 0, 0, firstArgumentAt],
    [jumpBits, 0, 1, newUserNamespace],
    [give, 0, 0, permissionDenied],
    [give, 0, 0, allow],
  ]
}

function encode(instructions: readonly Instruction[]): Buffer {
  const bytes = Buffer.alloc(instructions.length * 8)
  instructions.forEach(([code, ifTrue, ifFalse, k], i) => {
    bytes.writeUInt16LE(code, i * 8)
    bytes.writeUInt8(ifTrue, i * 8 + 2)
    bytes.writeUInt8(ifFalse, i * 8 + 3)
    bytes.writeUInt32LE(k, i * 8 + 4)
  })
  return bytes
}

/** Comes after `no_new_privs`, and after every call of the script that is refused from then on. */
export function addSeccomp(script: Script): void {
  const arch = process.arch
  assert(arch === 'x64' || arch === 'arm64', 'fnd is built for x64 and arm64')
  const instructions = filter(numbersOf[arch])
  // `struct sock_fprog`: a length, padding, a pointer.
  const address = BigInt(script.addressOf(encode(instructions)))
  const program = BigUint64Array.from([BigInt(instructions.length), address])
  const setFilter = 1
  // Without this flag, kernels before 5.16 also slow the process down against Spectre v4.
  const speculationAllowed = 4
  script.maybe('seccomp', setFilter, speculationAllowed, program)
}

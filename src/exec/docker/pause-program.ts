/**
 * The smallest program that does nothing: it holds a network namespace until it is killed. An ELF
 * header, one program header and a few instructions, so that no image has to be fetched for it
 * (elf(5); the bytes of the instructions are those of the processors' manuals). Pure.
 */

const elfHeaderBytes = 64
const programHeaderBytes = 56
const loadAddress = 0x400000n

interface Machine {
  /** e_machine of the ELF header. */
  readonly machine: number
  readonly code: Uint8Array
}

const machines: Readonly<Record<'x64' | 'arm64', Machine>> = {
  x64: {
    machine: 62,
    // mov eax, 34 (pause); syscall; jmp to the start
    code: Uint8Array.of(0xb8, 0x22, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7),
  },
  arm64: {
    machine: 183,
    // x0 to x3 = 0; x8 = 73 (ppoll); svc 0; branch to the start
    code: instructions([
      0xd2800000, 0xd2800001, 0xd2800002, 0xd2800003, 0xd2800928, 0xd4000001, 0x17fffffa,
    ]),
  },
}

function instructions(words: readonly number[]): Uint8Array {
  const bytes = Buffer.alloc(words.length * 4)
  words.forEach((word, index) => {
    bytes.writeUInt32LE(word, index * 4)
  })
  return bytes
}

/** `cpu` in Node's words. */
export function pauseProgram(cpu: 'x64' | 'arm64'): Uint8Array {
  const { machine, code } = machines[cpu]
  const size = elfHeaderBytes + programHeaderBytes + code.length
  const file = Buffer.alloc(size)
  // 64 bits, little endian, version 1.
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1])
  file.writeUInt16LE(2, 16)
  file.writeUInt16LE(machine, 18)
  file.writeUInt32LE(1, 20)
  file.writeBigUInt64LE(loadAddress + BigInt(elfHeaderBytes + programHeaderBytes), 24)
  file.writeBigUInt64LE(BigInt(elfHeaderBytes), 32)
  file.writeUInt16LE(elfHeaderBytes, 52)
  file.writeUInt16LE(programHeaderBytes, 54)
  file.writeUInt16LE(1, 56)
  // One segment, the whole file, readable and executable.
  file.writeUInt32LE(1, 64)
  file.writeUInt32LE(5, 68)
  file.writeBigUInt64LE(loadAddress, 80)
  file.writeBigUInt64LE(loadAddress, 88)
  file.writeBigUInt64LE(BigInt(size), 96)
  file.writeBigUInt64LE(BigInt(size), 104)
  file.writeBigUInt64LE(4096n, 112)
  file.set(code, elfHeaderBytes + programHeaderBytes)
  return file
}

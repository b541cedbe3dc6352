/**
 * CRC-32C: polynomial 0x1EDC6F41 (Castagnoli), reflected form 0x82F63B78, initial value and final
 * xor 0xFFFFFFFF; the checksum of iSCSI, ext4 and etcd's WAL. Check value: "123456789" gives
 * 0xE3069283. Four bytes a step through four tables ("slicing"), because Bun has no native one.
 */
const tables = makeTables()

function makeTables(): readonly [Int32Array, Int32Array, Int32Array, Int32Array] {
  const first = new Int32Array(256)
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0)
    first[byte] = crc
  }
  const next = (previous: Int32Array) =>
    previous.map(crc => (crc >>> 8) ^ (first[crc & 255] as number))
  const second = next(first)
  const third = next(second)
  return [first, second, third, next(third)]
}

/** Of those from `start` to `end`. */
export function crc32c(bytes: Uint8Array, start = 0, end = bytes.length): number {
  const [t0, t1, t2, t3] = tables
  let sum = -1
  let at = start
  const whole = end - ((end - start) & 3)
  while (at < whole) {
    // Indexes are below their arrays' lengths by construction, which the compiler cannot see.
    sum ^=
      (bytes[at] as number) |
      ((bytes[at + 1] as number) << 8) |
      ((bytes[at + 2] as number) << 16) |
      ((bytes[at + 3] as number) << 24)
    sum =
      (t3[sum & 255] as number) ^
      (t2[(sum >>> 8) & 255] as number) ^
      (t1[(sum >>> 16) & 255] as number) ^
      (t0[sum >>> 24] as number)
    at += 4
  }
  for (; at < end; at++) {
    sum = (sum >>> 8) ^ (t0[(sum ^ (bytes[at] as number)) & 255] as number)
  }
  return ~sum >>> 0
}

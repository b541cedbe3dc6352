import { expect, test } from 'bun:test'
import { Room } from '../../src/store/log-room.ts'

const mib = 1024 * 1024
const min = 64 * mib

class Disk {
  freeBytes = 100 * mib
  looks = 0
  readonly room = new Room(min, () => {
    this.looks += 1
    return this.freeBytes
  })
}

test('a filesystem with room is asked every 100 ms', () => {
  const disk = new Disk()
  for (let nowMs = 0; nowMs < 1000; nowMs += 10) expect(disk.room.has(min, nowMs)).toBe(true)
  expect(disk.looks).toBe(10)
})

test('that it is full is noticed within 100 ms', () => {
  const disk = new Disk()
  expect(disk.room.has(min, 0)).toBe(true)
  disk.freeBytes = 10
  expect(disk.room.has(min, 100)).toBe(false)
})

test('one without room is asked every time, so that the end of it is noticed at once', () => {
  const disk = new Disk()
  disk.freeBytes = min - 1
  expect([0, 1, 2].map(nowMs => disk.room.has(min, nowMs))).toEqual([false, false, false])
  disk.freeBytes = min
  expect(disk.room.has(min, 2)).toBe(true)
})

test('what is enough for one question may be too little for another', () => {
  const disk = new Disk()
  disk.freeBytes = min / 2
  expect(disk.room.has(min / 4, 0)).toBe(true)
  expect(disk.room.has(min, 0)).toBe(false)
  expect(disk.room.has(min / 4, 0)).toBe(true)
})

test.each([
  ['many small entries', 1, 300],
  ['one that is large', 1, 3 * mib],
])('%s never take a sixteenth of the reserve between two looks', (_, entries, bytes) => {
  const disk = new Disk()
  let sinceLook = 0
  for (let write = 0; write < 500; write++) {
    const { looks } = disk
    expect(disk.room.has(min, 0)).toBe(true)
    if (disk.looks > looks) sinceLook = 0
    expect(sinceLook).toBeLessThan(min / 16)
    disk.room.spend(entries, bytes)
    sinceLook += bytes * 2
  }
  expect(disk.looks).toBeGreaterThan(1)
})

test('a look of its own counts as one', () => {
  const disk = new Disk()
  expect(disk.room.look(0)).toBe(disk.freeBytes)
  expect(disk.room.has(min, 1)).toBe(true)
  expect(disk.looks).toBe(1)
})

test('what was spent since the look is not free', () => {
  const disk = new Disk()
  disk.freeBytes = min + 10
  expect(disk.room.has(min, 0)).toBe(true)
  disk.room.spend(1, 100)
  disk.freeBytes = min - 90
  expect(disk.room.has(min, 1)).toBe(false)
})

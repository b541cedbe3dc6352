import { expect, test } from 'bun:test'
import { PullProgress, progressText } from '../../../src/exec/docker/pull-progress.ts'

const mb = 1e6

test('the bytes of the layers, as the daemon tells them', () => {
  const progress = new PullProgress()
  const text = () => progressText(progress.now)
  expect(text()).toBe('the registry has not answered')
  progress.see({ status: 'Pulling from ada/hello', id: '1' })
  expect(text()).toBe('the registry has not answered')
  progress.see({ status: 'Already exists', id: 'a' })
  progress.see({ status: 'Pulling fs layer', id: 'b' })
  progress.see({ status: 'Pulling fs layer', id: 'c' })
  expect(text()).toBe('no bytes yet')
  const downloading = (id: string, current: number, total: number) =>
    progress.see({ status: 'Downloading', id, progressDetail: { current, total } })
  downloading('b', 4 * mb, 20 * mb)
  downloading('c', 30 * mb, 100 * mb)
  expect(text()).toBe('34 of 120 MB')
  expect(progress.now).toEqual({
    layers: 3,
    layersDone: 1,
    bytes: 120 * mb,
    bytesDone: 34 * mb,
  })
  progress.see({ status: 'Download complete', id: 'b' })
  expect(text()).toBe('50 of 120 MB')
  // Unpacking counts from the start again, and what was loaded stays loaded.
  progress.see({ status: 'Extracting', id: 'b', progressDetail: { current: 1, total: 20 * mb } })
  expect(text()).toBe('50 of 120 MB')
  progress.see({ status: 'Pull complete', id: 'b' })
  expect(progress.now.layersDone).toBe(2)
})

test('a layer whose size is not told counts by what came of it', () => {
  const progress = new PullProgress()
  const downloading = (current: number) =>
    progress.see({ status: 'Downloading', id: 'a', progressDetail: { current } })
  downloading(557_056)
  expect(progressText(progress.now)).toBe('557 kB so far')
  downloading(4 * mb)
  expect(progressText(progress.now)).toBe('4 MB so far')
  progress.see({ status: 'Download complete', id: 'a' })
  expect(progressText(progress.now)).toBe('4 of 4 MB')
})

test('messages without an id, and of things that are no layers, count for nothing', () => {
  const progress = new PullProgress()
  for (const message of [{}, { status: 'Digest: sha256:abc' }, { id: 'x', status: 'Waiting?' }]) {
    progress.see(message)
  }
  expect(progress.now).toEqual({ layers: 0, layersDone: 0, bytes: 0, bytesDone: 0 })
})

test('small images in kilobytes', () => {
  expect(progressText({ layers: 1, layersDone: 0, bytes: 3400, bytesDone: 1200 })).toBe('1 of 4 kB')
})

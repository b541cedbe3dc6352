/**
 * The program of the thread that does what would hold the event loop, and with it the heartbeats.
 * One message in, one out.
 */
import { answerTo, type DiskRequest } from './disk-tasks.ts'

declare const self: Worker

self.onmessage = (event: MessageEvent<DiskRequest>) => {
  self.postMessage(answerTo(event.data))
}

/** The server of measured-server.ts that also counts what it tells on `diagnostics_channel`, as one with metrics does. */
import { subscribe } from 'node:diagnostics_channel'
import type { UploadEvents } from '../../src/index.ts'
import './measured-server.ts'

export interface Counts {
  created: number
  chunks: number
  bytes: number
  completed: number
}

const counts: Counts = { created: 0, chunks: 0, bytes: 0, completed: 0 }
const on = <Name extends keyof UploadEvents>(name: Name, listener: (event: UploadEvents[Name][0]) => void) =>
  subscribe(`nexus-uploader:${name}`, (event) => listener(event as UploadEvents[Name][0]))

on('created', () => {
  counts.created += 1
})
on('chunk', ({ size, duplicate }) => {
  if (duplicate) return
  counts.chunks += 1
  counts.bytes += size
})
on('completed', () => {
  counts.completed += 1
})
process.on('message', (message) => {
  if (message === 'counts') process.send?.(counts)
})

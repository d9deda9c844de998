/** The buttons that make trouble, and what the demo's server tells of network and upload server. */
import { count } from './format.ts'
import { tell } from './log.ts'
import type { Status } from './status.ts'

const find = <Kind extends HTMLElement>(selector: string) => document.querySelector(selector) as Kind

const network = find('#network-state')
const server = find('#server-state')
const speed = find<HTMLSelectElement>('#speed')

let last: Status | null = null

/** Whether network and server are both there, and how to call it when they are not. */
export function onLineChange(listener: (isUp: boolean) => void): void {
  const events = new EventSource('/demo/events')
  events.onmessage = ({ data }) => {
    const status: Status = JSON.parse(data)
    if (last) account(last, status)
    last = status
    show(status)
    listener(status.network === 'up' && status.serverPid !== null)
  }
  events.onerror = () => {
    // The browser tries again by itself.
    network.textContent = 'The demo itself does not answer. Is it still running?'
    network.dataset.state = 'down'
  }
}

/** Why nothing moves, in words. */
export function outage(): string {
  return last?.network === 'cut' ? 'The network is cut.' : 'The server is dead.'
}

function account(before: Status, now: Status): void {
  const broken = `${count(now.broken, 'request')} broke off`
  if (before.network !== now.network) {
    tell(now.network === 'cut' ? `The network is cut for 3 s: ${broken}.` : 'The network is back.')
  }
  if (before.serverPid === now.serverPid) return
  if (now.serverPid === null) tell(`Server process ${before.serverPid} is killed with SIGKILL: ${broken}.`)
  else tell(`Server process ${now.serverPid} is up.`)
}

function show({ network: state, serverPid, speed: limit }: Status): void {
  network.textContent = state === 'up' ? 'Connected' : 'Cut'
  network.dataset.state = state === 'up' ? 'up' : 'down'
  server.textContent = serverPid === null ? 'Killed' : `Process ${serverPid}`
  server.dataset.state = serverPid === null ? 'down' : 'up'
  speed.value = String(limit ?? 0)
}

const post = (path: string) => void fetch(path, { method: 'POST' })

find('#cut').addEventListener('click', () => post('/demo/cut'))
find('#kill').addEventListener('click', () => post('/demo/kill'))
speed.addEventListener('change', () => post(`/demo/speed?bytes=${speed.value}`))

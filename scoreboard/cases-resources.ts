/** Sockets, files, processor, disk, and the end of the process. */
import { execFileSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Case, onlyDisk } from './case.ts'
import { isOk, type OpenRequest } from './http.ts'
import { fail, notApplicable } from './outcome.ts'
import { content, eventually, type Subject } from './subject.ts'
import { piece } from './wires.ts'

const MiB = 1024 * 1024

const idle: Case = {
  name: 'idle-body',
  title: 'A body that goes silent is ended (limit shortened to 1 s)',
  unless: ({ isOurs }) => (isOurs ? null : 'has no limit for silence; Node’s requestTimeout counts from the start'),
  settings: { bodyIdleTimeout: 1000 },
  async run(subject) {
    const id = await subject.create(4 * piece, 'silent.bin')
    const open = subject.openPut(id, 0, piece)
    open.write(content(1000, 1))
    const ended = await Promise.race([open.answer.then(() => true), sleep(6000, false)])
    open.cut()
    if (!ended) fail('the request is still open after 6 s of silence')
  },
}

function openFiles(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length
}

async function abort(subject: Subject, number: number): Promise<void> {
  const { id } = await subject.contender.wire.create(subject.port, { size: 4 * piece, name: `aborted-${number}.bin` })
  if (id === null) fail('an upload could not be begun')
  const open = subject.openPut(id, 0, piece)
  open.write(content(20_000, number))
  await sleep(number % 7)
  open.cut()
  await open.answer
}

const descriptors: Case = {
  name: 'aborted-bodies',
  title: '500 broken bodies leave no file descriptor open',
  unless: () => (process.platform === 'linux' ? null : 'needs /proc'),
  async run(subject) {
    await abort(subject, 0)
    await sleep(500)
    const before = openFiles(subject.pid)
    for (let done = 0; done < 500; done += 20) {
      await Promise.all(Array.from({ length: 20 }, (_, index) => abort(subject, 1 + done + index)))
    }
    // Some sockets may be kept alive.
    const isBack = await eventually(async () => openFiles(subject.pid) <= before + 12, 10_000)
    if (!isBack) fail(`${before} open before, ${openFiles(subject.pid)} ten seconds after`)
  },
}

const waiters: Case = {
  name: 'waiting',
  title: '50 requests for an upload whose writer is silent cost less than 0.4 s of processor time, and are answered',
  unless: ({ kind }) => (kind === 'multer' ? 'has no lock' : null),
  async run(subject) {
    const id = await subject.create(4 * piece, 'waiting.bin')
    const open: OpenRequest = subject.openPut(id, 0, piece)
    open.write(content(1000, 2))
    await sleep(300)
    const before = Number(await subject.ask('cpu'))
    const began = Date.now()
    const answers = await Promise.all(Array.from({ length: 50 }, () => subject.received(id)))
    const seconds = (Date.now() - began) / 1000
    const used = Number(await subject.ask('cpu')) - before
    open.cut()
    const unanswered = answers.filter(({ status }) => status === 0).length
    // Without a spinning loop it is a tenth of a second, whatever else the machine does.
    if (used > 0.4) fail(`${used.toFixed(1)} s of processor time in ${seconds.toFixed(1)} s`)
    if (unanswered > 0) fail(`${unanswered} of 50 get no answer`)
  },
}

/** Smaller than the upload. */
const diskSize = 48 * MiB

const fullDisk: Case = {
  name: 'full-disk',
  title: 'A full disk is answered with a 5xx, the process goes on, and what was acknowledged is still reported',
  unless: (contender) => onlyDisk(contender) ?? (process.getuid?.() === 0 ? null : 'needs root, to mount a small disk'),
  async prepare({ directory }) {
    await mkdir(directory)
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${diskSize}`, 'tmpfs', directory], { stdio: 'ignore' })
    } catch {
      notApplicable('needs root, to mount a small disk')
    }
  },
  async run(subject) {
    const data = content(2 * diskSize, 3)
    const id = await subject.create(data.length, 'full.bin')
    let acknowledged = 0
    let answer = { status: 200 }
    // Few and large enough; the routes know pieces of one size only.
    const size = subject.contender.wire.name === 'tus' ? 4 * MiB : piece
    while (acknowledged < data.length) {
      const next = await subject.put(id, acknowledged, data.subarray(acknowledged, acknowledged + size))
      answer = next
      if (!isOk(next)) break
      acknowledged += size
    }
    if (subject.death !== null) fail(subject.death)
    if (acknowledged > diskSize) fail(`${acknowledged} bytes are acknowledged on a disk of ${diskSize}`)
    if (answer.status < 500)
      fail(answer.status === 0 ? 'the connection is cut without an answer' : `answered ${answer.status}`)
    const { bytes, status } = await subject.received(id)
    if (bytes === null || bytes < acknowledged) {
      fail(`${acknowledged} bytes acknowledged, then ${answer.status}; after that ${bytes ?? status} are reported`)
    }
  },
  async restore(subject) {
    await subject.kill()
    execFileSync('umount', [subject.directory], { stdio: 'ignore' })
  },
}

const end: Case = {
  name: 'closing',
  title: 'After the server is closed the process ends by itself within 5 s, also with open uploads',
  async run(subject) {
    const id = await subject.create(4 * piece, 'open.bin')
    await subject.put(id, 0, content(piece, 4))
    if (!(await subject.endsByItself(5000))) fail('the process is still alive after 5 s')
  },
}

export const resourceCases: readonly Case[] = [idle, descriptors, waiters, fullDisk, end]

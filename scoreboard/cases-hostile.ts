/** What a client or a foreigner must not be able to do, and what others on the machine must not see. */
import { lstat, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Case, onlyDisk } from './case.ts'
import { type Answer, send } from './http.ts'
import { secretOfRedis } from './messages.ts'
import { fail } from './outcome.ts'
import { content, type Subject } from './subject.ts'
import { piece, postJson, putChunk } from './wires.ts'

const takeover: Case = {
  name: 'takeover',
  title: 'A second anonymous client that begins an upload of the same name, size and date gets an upload of its own',
  async run(subject) {
    const size = 2 * piece
    const lastModified = 1_700_000_000_000
    const first = await subject.create(size, 'photo.jpg', lastModified)
    await subject.put(first, 0, content(piece, 1))
    const second = await subject.create(size, 'photo.jpg', lastModified)
    const { bytes } = await subject.received(second)
    if (second === first) fail(`both get the same URL; the second one is told that ${bytes} bytes are there`)
    if (bytes !== 0) fail(`the upload of the second one begins with ${bytes} bytes`)
  },
}

/** Names of this many files that must not appear outside of the server's folder. */
const evil = ['../../evil-1.txt', '..\\..\\evil-2.txt', '/evil-3.txt', 'a/../../../evil-4.txt', '....//evil-5.txt']

async function mustStayInside(subject: Subject, before: readonly string[], how: string): Promise<void> {
  const inside = /^server\//
  const outside = (await subject.files(subject.folder)).filter((name) => !inside.test(name) && !before.includes(name))
  if (outside.length > 0) fail(`${how} makes ${outside.join(', ')} outside of the server's folder`)
}

const names: Case = {
  name: 'hostile-names',
  title: 'Names of files with ../ in them make no file outside of the server’s folder',
  unless: onlyDisk,
  async run(subject) {
    for (const [index, name] of evil.entries()) {
      const { id } = await subject.contender.wire.create(subject.port, { size: 1000, name })
      if (id === null) continue
      const data = content(1000, index)
      await subject.put(id, 0, data)
      await subject.contender.wire.complete?.(subject.port, id)
      await mustStayInside(subject, [], `the name ${name}`)
    }
  },
}

async function tusIds(subject: Subject): Promise<string[]> {
  const statuses: string[] = []
  for (const id of ['..%2fcanary.txt', '..%2f..%2fcanary.txt', '%2e%2e%2fcanary.txt', '..%5ccanary.txt']) {
    for (const method of ['HEAD', 'GET', 'PATCH', 'DELETE']) {
      const headers = {
        'Tus-Resumable': '1.0.0',
        'Upload-Offset': 0,
        'Content-Type': 'application/offset+octet-stream',
      }
      const body = method === 'PATCH' ? Buffer.from('overwritten') : Buffer.alloc(0)
      const answer = await send(method, subject.port, `/files/${id}`, headers, body)
      if (answer.body.includes('canary sings')) fail(`GET /files/${id} shows a file outside of the server's folder`)
      if (answer.status >= 500) statuses.push(`${method} ${id}: ${answer.status}`)
    }
  }
  return statuses
}

async function routesIds(subject: Subject): Promise<void> {
  const id = await subject.create(2 * piece, 'ids.bin')
  const data = content(100, 3)
  await putChunk(subject.port, '../..', 'evil-by-upload-id', data)
  await putChunk(subject.port, id, '../../../evil-by-index', data)
  await putChunk(subject.port, '../../..', 0, data)
  await mustStayInside(subject, ['canary.txt'], 'an uploadId or a chunkIndex with ../ in it')
  await postJson(subject.port, '/upload/complete', { uploadId: '../..' })
  await mustStayInside(subject, ['canary.txt'], 'an uploadId of ../..')
}

const ids: Case = {
  name: 'hostile-ids',
  title: 'Ids with ../ in them read, change and make no file outside of the server’s folder',
  unless: onlyDisk,
  prepare: ({ folder }) => writeFile(join(folder, 'canary.txt'), 'the canary sings'),
  async run(subject) {
    const statuses = subject.contender.wire.name === 'tus' ? await tusIds(subject) : []
    if (subject.contender.wire.name === 'routes') await routesIds(subject)
    const canary = await readFile(join(subject.folder, 'canary.txt'), 'utf8').catch(() => null)
    if (canary !== 'the canary sings') fail('a file outside of the server’s folder was changed')
    if (statuses.length > 0) fail(statuses.join(', '))
  },
}

const foreignNames: Case = {
  name: 'foreign-names',
  title: 'Names in any script give no 5xx, neither for the upload nor for a GET of its URL',
  async run(subject) {
    const { wire } = subject.contender
    for (const name of ['截图-été.png', 'отчёт.pdf', '📷.jpg']) {
      const seen: [what: string, answer: Answer][] = []
      const { answer, id } = await wire.create(subject.port, { size: 1000, name })
      seen.push(['creation', answer])
      if (id !== null) {
        seen.push(['upload', await subject.put(id, 0, content(1000, 4))])
        const completed = await wire.complete?.(subject.port, id)
        if (completed) seen.push(['completion', completed])
        if (wire.name === 'tus') seen.push(['GET', await send('GET', subject.port, id)])
      }
      const [bad] = seen.filter(([, { status }]) => status >= 500 || status === 0)
      if (bad) fail(`${name}: the ${bad[0]} is answered ${bad[1].status}: ${bad[1].body.trim().slice(0, 90)}`)
    }
  },
}

const secrets: Case = {
  name: 'secrets',
  title: 'No password is in String(), util.inspect() or JSON.stringify() of what an application holds',
  unless: ({ name }) => (['multer', 'ours-routes', 'tus-file'].includes(name) ? 'has no password' : null),
  async run(subject) {
    const { target } = subject
    const shown = String(await subject.ask('show'))
    const found = [
      ...(target && shown.includes(target.secretAccessKey) ? ['the secret key of S3'] : []),
      ...(shown.includes(secretOfRedis) ? ['the password of Redis'] : []),
    ]
    if (found.length > 0) fail(`shows ${found.join(' and ')}`)
  },
}

const modes: Case = {
  name: 'modes',
  title: 'Other users of the machine can read neither files nor folders of uploads (umask 022)',
  unless: onlyDisk,
  async run(subject) {
    const data = content(2 * piece, 6)
    await subject.upload(data, 'private.bin')
    const id = await subject.create(2 * piece, 'open.bin')
    await subject.put(id, 0, content(piece, 7))
    const names = await subject.files()
    const readable: string[] = []
    for (const name of names) {
      if (await isOpenToOthers(subject, name)) readable.push(name)
    }
    if (readable.length > 0) fail(`${readable.length} of ${names.length} files are readable for all users`)
  },
}

/** Every folder on the way, from the one that the server made. */
async function isOpenToOthers(subject: Subject, name: string): Promise<boolean> {
  const steps = name.split('/')
  for (let count = 0; count < steps.length; count++) {
    const { mode } = await lstat(join(subject.directory, ...steps.slice(0, count)))
    if ((mode & 0o001) === 0) return false
  }
  return ((await lstat(join(subject.directory, name))).mode & 0o004) !== 0
}

const origins: Case = {
  name: 'origins',
  title: 'Pages of any origin cannot act with a visitor’s cookies by default',
  async run(subject) {
    const path = subject.contender.wire.name === 'tus' ? '/files' : '/upload/init'
    const headers = { Origin: 'https://evil.example', 'Access-Control-Request-Method': 'POST' }
    for (const method of ['OPTIONS', 'POST']) {
      const { headers: answered } = await send(method, subject.port, path, { 'Tus-Resumable': '1.0.0', ...headers })
      const credentials = answered['access-control-allow-credentials'] === 'true'
      const origin = answered['access-control-allow-origin']
      if (credentials && origin !== undefined) fail(`${method} allows ${origin} with credentials`)
    }
  },
}

export const hostileCases: readonly Case[] = [takeover, names, ids, foreignNames, secrets, modes, origins]

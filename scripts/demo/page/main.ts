/** The page: every file gets a row, whichever library uploads it. */
import type { Begin, Client, Connect } from './clients/client.ts'
import { listenForFiles, openPicker } from './files.ts'
import { formatBytes, formatTime } from './format.ts'
import { tell } from './log.ts'
import { forget, keyOf, type Remembered, remember, rememberedUploads } from './remembered.ts'
import { Row } from './row.ts'
import { onLineChange, outage } from './trouble.ts'
import { type State, Upload } from './upload.ts'

interface Choice {
  readonly name: string
  /** Whether choosing the file again after a reload goes on where it was. */
  readonly resumesAfterReload: boolean
  readonly load: () => Promise<{ connect: Connect }>
}

/** By the values of the radio buttons. */
const choices: Record<string, Choice> = {
  own: { name: 'Our own client', resumesAfterReload: true, load: () => import('./clients/own.ts') },
  tus: { name: 'Uppy with tus', resumesAfterReload: true, load: () => import('./clients/uppy-tus.ts') },
  // Uppy would need its Golden Retriever for that.
  s3: { name: 'Uppy with AwsS3', resumesAfterReload: false, load: () => import('./clients/uppy-s3.ts') },
  resumable: { name: 'Resumable.js', resumesAfterReload: true, load: () => import('./clients/resumablejs.ts') },
}

const badges: Record<State, string> = {
  uploading: 'Uploading',
  interrupted: 'Connection lost',
  paused: 'Paused',
  checking: 'Comparing',
  identical: 'Identical',
  different: 'DIFFERENT',
  failed: 'Failed',
  cancelled: 'Cancelled',
}

const list = document.querySelector('#uploads') as HTMLElement
const problem = document.querySelector('#problem') as HTMLElement
const drop = document.querySelector('#drop') as HTMLElement
const dashboard = document.querySelector('#dashboard') as HTMLElement
const radios = [...document.querySelectorAll<HTMLInputElement>('input[name=client]')]

const uploads = new Map<Upload, Row>()
/** Files that are on their way, by client and file. */
const underWay = new Map<string, Upload>()
const remembered = new Map<string, Row>()
const clients = new Map<string, Promise<Client>>()
let isLineUp = true

function chosen(): string {
  return radios.find((radio) => radio.checked)?.value ?? ''
}

/** Loaded when it is chosen for the first time. */
function clientFor(id: string): Promise<Client> {
  const known = clients.get(id)
  if (known) return known
  const choice = choices[id] as Choice
  const loading = choice.load().then(({ connect }) => connect((...upload) => begin(id, upload), dashboard))
  clients.set(id, loading)
  return loading
}

function showChoice(): void {
  const id = chosen()
  drop.hidden = id === 'tus'
  dashboard.hidden = id !== 'tus'
  clientFor(id).catch(() => complain('The client library could not be loaded.'))
}

function begin(id: string, upload: Parameters<Begin>): Upload {
  const { name, resumesAfterReload } = choices[id] as Choice
  const [file] = upload
  const entry = entryOf(id, file)
  dropRemembered(entry)
  const row = new Row(file.name, name)
  const started = new Upload(upload, name, (changed) => {
    if (changed.state === 'cancelled' || changed.state === 'identical') forget(entry)
    show(changed, row)
  })
  uploads.set(started, row)
  underWay.set(keyOf(entry), started)
  list.prepend(row.element)
  toggleEmpty()
  if (resumesAfterReload) remember(entry)
  tell(`${file.name}, ${formatBytes(file.size)}: sent with ${name}.`)
  started.lineChanged(isLineUp)
  show(started, row)
  return started
}

function show(upload: Upload, row: Row): void {
  const { state, check, url, file } = upload
  if (state === 'cancelled') {
    leave(upload, row)
    return
  }
  row.show(state, badges[state], state === 'interrupted' ? outage() : upload.message)
  drawProgress(upload, row)
  setActions(upload, row)
  if (check) row.checked(check, verdictOf(state))
  if (url) row.link(new URL(url, location.href).href, file.name)
}

function verdictOf(state: State): string {
  return state === 'identical' ? 'Identical: both checksums are the same' : 'DIFFERENT: this is not the file you sent'
}

function setActions(upload: Upload, row: Row): void {
  const { state } = upload
  if (state === 'uploading' || state === 'interrupted') row.mainAction('Pause', () => upload.pause())
  else if (state === 'paused') row.mainAction('Resume', () => upload.resume())
  else if (state === 'failed' && !upload.url) row.mainAction('Try again', () => upload.retry())
  else row.mainAction(null)
  if (upload.isWorking) row.endAction('Cancel', () => upload.cancel())
  else if (state === 'checking') row.endAction(null)
  else row.endAction('Remove from list', () => leave(upload, row))
}

function drawProgress(upload: Upload, row: Row): void {
  const { file, bytes, state, speed, percent, interruptions } = upload
  const parts = upload.isWorking
    ? [`${percent} %`, `${formatBytes(bytes)} of ${formatBytes(file.size)}`]
    : [formatBytes(file.size)]
  if (state === 'uploading' && speed > 0) {
    parts.push(`${formatBytes(speed)}/s`, `${formatTime((file.size - bytes) / speed)} left`)
  }
  if (interruptions > 0) parts.push(interruptions === 1 ? 'interrupted once' : `interrupted ${interruptions} times`)
  // A figure and its unit stay on one line.
  const figures = parts.map((part) => part.replaceAll(' ', '\u00a0')).join(' · ')
  row.progress(file.size === 0 ? 1 : bytes / file.size, figures)
}

/** Takes a row away; the focus goes where it makes sense, not to the top of the page. */
function leave(upload: Upload, row: Row): void {
  const hadFocus = row.element.contains(document.activeElement)
  row.element.remove()
  uploads.delete(upload)
  toggleEmpty()
  if (hadFocus) (document.querySelector('#uploads-title') as HTMLElement).focus()
}

function toggleEmpty(): void {
  ;(document.querySelector('#empty') as HTMLElement).hidden = uploads.size + remembered.size > 0
}

function complain(text: string): void {
  problem.textContent = text
  problem.hidden = text === ''
}

async function addFiles(files: readonly File[]): Promise<void> {
  complain('')
  const id = chosen()
  const isUnderWay = (file: File) => underWay.get(keyOf(entryOf(id, file)))?.isWorking === true
  const known = files.find(isUnderWay)
  if (known) complain(`${known.name} is being uploaded already.`)
  const client = await clientFor(id)
  client.add(files.filter((file) => !isUnderWay(file)))
}

function entryOf(client: string, { name, size, lastModified }: File): Remembered {
  return { client, name, size, lastModified }
}

function showRemembered(entry: Remembered): void {
  const { client, name, size } = entry
  const choice = choices[client]
  if (!choice) return
  const row = new Row(name, choice.name)
  remembered.set(keyOf(entry), row)
  row.show('remembered', 'Not finished', 'Choose the same file again, and it goes on where it was.')
  row.progress(0, formatBytes(size))
  row.mainAction('Choose the file', () => {
    for (const radio of radios) radio.checked = radio.value === client
    showChoice()
    openPicker()
  })
  row.endAction('Forget it', () => {
    forget(entry)
    dropRemembered(entry)
    tell(`${name} is forgotten.`)
    ;(document.querySelector('#uploads-title') as HTMLElement).focus()
  })
  list.append(row.element)
  toggleEmpty()
}

function dropRemembered(entry: Remembered): void {
  remembered.get(keyOf(entry))?.element.remove()
  remembered.delete(keyOf(entry))
  toggleEmpty()
}

for (const radio of radios) radio.addEventListener('change', showChoice)
listenForFiles({
  files: (files) => void addFiles(files),
  folders: () => complain('Folders cannot be uploaded. Drop the files in them.'),
})
onLineChange((isUp) => {
  isLineUp = isUp
  for (const [upload, row] of uploads) {
    upload.lineChanged(isUp)
    show(upload, row)
  }
})
setInterval(() => {
  for (const [upload, row] of uploads) if (upload.isWorking) drawProgress(upload, row)
}, 250)
for (const entry of rememberedUploads()) showRemembered(entry)
showChoice()

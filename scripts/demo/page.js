/** The page: files come in by picker or drop, every file gets a row. */

import { abandon, progressOf } from './page-requests.js'
import { formatBytes, formatTime, Row } from './page-row.js'
import { forget, keyOf, rememberedUploads, Upload } from './page-upload.js'

const list = document.getElementById('uploads')
const picker = document.getElementById('picker')
const drop = document.getElementById('drop')
const problem = document.getElementById('problem')
const announcer = document.getElementById('announcer')

/** Rows by the key of their file. */
const entries = new Map()

function announce(text) {
  announcer.textContent = text
}

function complain(text) {
  problem.textContent = text
  problem.hidden = text === ''
}

function addFile(file) {
  const key = keyOf(file)
  const known = entries.get(key)
  if (known?.upload?.isActive) {
    complain(`${file.name} is being uploaded already.`)
    return
  }
  if (known) remove(key)
  const row = new Row(file.name)
  const upload = new Upload(file, () => show(upload, row))
  entries.set(key, { upload, row })
  list.prepend(row.element)
  toggleEmpty()
  upload.start()
}

const announcements = {
  uploading: ({ name }) => `Uploading ${name}`,
  retrying: ({ name }) => `Connection lost while uploading ${name}, trying again`,
  paused: ({ name }) => `${name} paused`,
  done: ({ name }) => `${name} is uploaded`,
  failed: ({ name }, message) => `${name} failed. ${message}`,
}

function show(upload, row) {
  const { file, state, doneBytes, message, result } = upload
  if (state === 'cancelled') return
  const changed = row.show(state, doneBytes, file.size, message)
  row.figures(figuresOf(upload))
  if (!changed) return
  const text = announcements[state]?.(file, message)
  if (text) announce(text)
  const focused = row.hasFocus()
  setActions(upload, row)
  if (state !== 'done') return
  row.link(new URL(result.url, location.href).href, file.name)
  if (focused) row.focusLink()
}

function setActions(upload, row) {
  const { state, key, file } = upload
  const start = () => upload.start()
  if (state === 'uploading' || state === 'retrying') row.mainAction('Pause', () => upload.pause())
  else if (state === 'paused' || state === 'pausing') row.mainAction('Resume', start)
  else if (state === 'failed') row.mainAction('Try again', start)
  else row.mainAction(null, null)
  if (state === 'done') row.endAction('Remove from list', () => leave(key, `${file.name} removed from the list`))
  else if (state === 'finishing') row.endAction(null, null)
  else
    row.endAction(state === 'failed' ? 'Remove' : 'Cancel', () => {
      void upload.cancel()
      leave(key, state === 'failed' ? `${file.name} removed` : `${file.name} cancelled`)
    })
}

function figuresOf({ state, doneBytes, file, speed, result }) {
  if (state === 'done') return `${formatBytes(result.size)} stored at ${new URL(result.url, location.href).pathname}`
  const percent = file.size === 0 ? 100 : Math.floor((doneBytes / file.size) * 100)
  const parts = [`${percent} %`, `${formatBytes(doneBytes)} of ${formatBytes(file.size)}`]
  if (state === 'uploading' && speed > 0) {
    parts.push(`${formatBytes(speed)}/s`, `${formatTime((file.size - doneBytes) / speed)} left`)
  }
  return parts.join(' · ')
}

function remove(key) {
  entries.get(key)?.row.element.remove()
  entries.delete(key)
  toggleEmpty()
}

/** Removes a row at the person's wish; the focus goes where it makes sense, not to the top of the page. */
function leave(key, text) {
  remove(key)
  announce(text)
  document.getElementById('uploads-title').focus()
}

function toggleEmpty() {
  document.getElementById('empty').hidden = entries.size > 0
}

/** Uploads from before a reload. The browser does not let us keep the file, so the person must choose it again. */
async function showRemembered([key, { uploadId, name, size }]) {
  let progress
  try {
    progress = await progressOf(uploadId)
  } catch (error) {
    if (error.isGone) forget(key)
    return
  }
  if (entries.has(key)) return
  const row = new Row(name)
  entries.set(key, { row })
  list.append(row.element)
  row.show('remembered', progress.uploadedBytes, size, 'Choose the same file again to go on.')
  const percent = size === 0 ? 100 : Math.floor((progress.uploadedBytes / size) * 100)
  row.figures(`${percent} % · ${formatBytes(progress.uploadedBytes)} of ${formatBytes(size)}`)
  row.mainAction('Choose', () => picker.click())
  row.endAction('Discard', () => {
    forget(key)
    void abandon(uploadId)
    leave(key, `${name} discarded`)
  })
  toggleEmpty()
}

function addFiles(files) {
  complain('')
  for (const file of files) addFile(file)
}

picker.addEventListener('change', () => {
  addFiles(picker.files)
  // Choosing the same file again is a change too.
  picker.value = ''
})

const hasFiles = (event) => event.dataTransfer?.types.includes('Files')

addEventListener('dragover', (event) => {
  if (!hasFiles(event)) return
  // Also beside the zone: a file dropped there would replace the page.
  event.preventDefault()
  drop.classList.add('over')
})

addEventListener('dragleave', (event) => {
  if (!event.relatedTarget) drop.classList.remove('over')
})

addEventListener('drop', (event) => {
  if (!hasFiles(event)) return
  event.preventDefault()
  drop.classList.remove('over')
  const items = [...event.dataTransfer.items]
  const isFolder = (item) => item.webkitGetAsEntry?.()?.isDirectory
  addFiles(items.filter((item) => item.kind === 'file' && !isFolder(item)).map((item) => item.getAsFile()))
  if (items.some(isFolder)) complain('Folders cannot be uploaded. Drop the files in them.')
})

for (const entry of rememberedUploads()) void showRemembered(entry)
